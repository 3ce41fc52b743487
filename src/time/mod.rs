//! Time: the clock, texts of points in time, time limits, and the retry policies.

pub mod clock;
pub mod limit;
pub mod retry;
pub mod rfc3339;
