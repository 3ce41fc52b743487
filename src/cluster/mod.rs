//! The processes of one deployment: which workers live, and how commands reach them.

pub mod command_client;
pub mod membership;
