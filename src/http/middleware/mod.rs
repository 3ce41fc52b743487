//!

pub mod auth;
pub mod host_check;
pub mod log_position;
