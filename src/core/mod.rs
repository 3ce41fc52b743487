//! The rules, without the world: values in, values out. No clock, no random, no I/O, no async.
//!
//! A change is decided against a [`catalog::Catalog`] and becomes [`event::Event`]s; the catalogue is
//! nothing but those events folded. A fact from outside travels in the [`command`].

pub mod arguments;
pub mod catalog;
pub mod command;
pub mod decide;
pub mod event;
pub mod failure;
pub mod model;
pub mod names;
pub mod producer_message;
pub mod tool_result;
