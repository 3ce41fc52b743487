//!

pub mod clock;
