//! Jobs: the client that stores them in the log, and how long their answers stay.

pub mod client;
mod retention;
