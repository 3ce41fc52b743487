//! One binary for all tests that need the world: real processes, real files, real servers.

mod harness;
mod process;
mod processes;
mod samples;
mod services;

mod access;
mod architecture;
mod backup;
mod boot;
mod bus_contract;
mod chaos;
mod cluster;
mod compose;
mod crowd;
mod demo;
mod events;
mod execute;
mod health;
mod jobs;
mod keys;
mod leaks;
mod lifecycle;
mod mongo;
mod nats;
mod nats_access;
mod producers;
mod properties;
mod real_servers;
mod remote;
mod rogue;
mod schemas;
mod secrets;
mod servers;
mod store_contract;
mod tools;
