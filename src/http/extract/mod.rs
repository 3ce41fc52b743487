//!

pub mod idempotency;
pub mod json;
pub mod path;
