//! The archives of the event log, for the command line.

pub use crate::eventlog::archive::{ArchiveError, read_archive};
