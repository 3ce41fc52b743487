//! The ports' adapters. Only `app` names one.

pub mod bus_in_process;
pub mod bus_nats;
pub mod original;
pub mod store_mongo;
pub mod store_sqlite;
