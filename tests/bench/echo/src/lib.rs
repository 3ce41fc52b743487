//! What the pass-throughs share.
pub mod child;
