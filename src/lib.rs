#![doc = include_str!("README.md")]
#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod adapters;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod core;
pub mod crypto;
pub mod eventlog;
pub mod http;
pub mod http_client;
pub mod jobs;
pub mod ports;
pub mod telemetry;
pub mod time;
pub mod views;
// The workers are at the top level of the repository, beside `src`.
#[path = "../workers/mod.rs"]
pub mod workers;
