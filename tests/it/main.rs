//! One binary for all tests that need the world: real processes, real files, real servers.

mod harness;
mod samples;

mod architecture;
mod bus_contract;
mod demo;
mod execute;
mod properties;
mod real_servers;
mod schemas;
mod store_contract;
mod tools;
