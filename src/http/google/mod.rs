//!

pub mod browser_flow;
