//!

pub mod client;
