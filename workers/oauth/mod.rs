//!

pub mod browser_flow;
pub mod client;
pub mod refresh;
pub mod token_source;
pub mod tokens;
