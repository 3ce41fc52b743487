//! The traits that the core needs from the outside. Every adapter of a trait passes one contract
//! suite in `tests/it`.

pub mod bus;
pub mod change_queue;
pub mod error;
pub mod event_log;
pub mod interim;
pub mod leases;
pub mod vault;
