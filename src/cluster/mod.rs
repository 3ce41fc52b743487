//!

pub mod command_client;
pub mod membership;
