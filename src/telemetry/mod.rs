//!

pub mod error;
pub mod logging;
pub mod metrics;
