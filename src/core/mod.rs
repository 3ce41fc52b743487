//! The pure rules: functions that take values and return values, read no clock, no random number and no file, and
//! never wait.
//!
//! A decision takes a [`catalog::Catalog`] and a [`command`] and returns [`event::Event`]s. The catalog is the fold
//! of all events. A worker fetches a missing fact and puts it into the command.

pub mod arguments;
pub mod catalog;
pub mod command;
pub mod decide;
pub mod error_chain;
pub mod event;
pub mod failure;
pub mod ids;
pub mod json_object;
pub mod loopback;
pub mod mcp;
pub mod model;
pub mod names;
pub mod producer_message;
pub mod tool_result;
