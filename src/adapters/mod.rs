//! The ports' adapters. Only `app` names one.

pub mod bus_local;
pub mod bus_nats;
pub mod predecessor_mongo;
pub mod store_mongo;
pub mod store_sqlite;
