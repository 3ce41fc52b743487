//! The rules, without the world: values in, values out. No clock, no random, no I/O, no async.
//!
//! A change is decided against a [`catalog::Catalog`] and becomes [`event::Event`]s; the catalogue is
//! nothing but those events folded. A fact from outside travels in the [`command`].

pub mod call;
pub mod catalog;
pub mod command;
pub mod dead;
pub mod event;
pub mod failure;
pub mod google;
pub mod grant;
pub mod job;
pub mod names;
pub mod outcome;
pub mod package;
pub mod remote;
pub mod request;
pub mod secret;
pub mod server;
pub mod tool;
