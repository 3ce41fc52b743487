//! The ports' adapters. Only `app` names one.

pub mod bus_in_process;
pub mod store_sqlite;
