//! The decisions: functions that take a catalog and a command and return events or a failure.

pub mod access;
pub mod connection;
pub mod credential;
pub mod dead_letter;
pub mod google;
pub mod grant;
pub mod idempotency;
pub mod job;
pub mod link;
pub mod package;
pub mod secret;
pub mod server;
#[cfg(test)]
mod testing;
pub mod token;
