//! Jobs: the client that stores them in the log, and the expiry of their answers.

pub mod client;
mod retention;
