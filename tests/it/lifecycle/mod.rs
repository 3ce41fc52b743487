//! The lifecycle of servers and their processes: start, stop, crash, permits, and isolation of processes.

mod drain;
mod guards;
mod isolation;
mod orphans;
mod restarts;
mod stop;
