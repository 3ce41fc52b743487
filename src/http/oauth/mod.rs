//!

pub mod browser_flow;
pub mod tokens;
