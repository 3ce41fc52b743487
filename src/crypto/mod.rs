//!

pub mod context;
pub mod keyring;
pub mod predecessor;
pub mod seal;
