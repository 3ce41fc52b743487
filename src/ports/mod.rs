//!

pub mod bus;
pub mod error;
pub mod event_log;
pub mod leases;
pub mod vault;
