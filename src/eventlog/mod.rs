//!

pub mod appender;
pub mod history;
pub mod projection;
pub mod snapshot;
