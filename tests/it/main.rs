//! One binary for all tests that need the world: real processes, real files, real servers.

mod harness;
mod samples;

mod access;
mod architecture;
mod boot;
mod bus_contract;
mod demo;
mod events;
mod execute;
mod health;
mod properties;
mod real_servers;
mod schemas;
mod secrets;
mod servers;
mod store_contract;
mod tools;
