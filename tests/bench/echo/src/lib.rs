//! The code that the pass-throughs share.
pub mod child;
