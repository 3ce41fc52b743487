//! Information for operators: logs, metrics and internal errors.

pub mod error;
pub mod logging;
pub mod metrics;
