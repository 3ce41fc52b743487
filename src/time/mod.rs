//! Time: the clock, texts of points in time, and the retry policies.

pub mod clock;
pub mod retry;
pub mod rfc3339;
