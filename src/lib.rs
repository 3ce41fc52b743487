#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

pub mod adapters;
pub mod app;
pub mod ask;
pub mod board;
pub mod cli;
pub mod config;
pub mod core;
pub mod execute;
pub mod follow;
pub mod http;
pub mod metrics;
pub mod ports;
pub mod queue;
pub mod seal;
pub mod snapshots;
pub mod telemetry;
pub mod view;
// The hands live beside `src`: they are a room of the house, not of the process.
#[path = "../workers/mod.rs"]
pub mod workers;
