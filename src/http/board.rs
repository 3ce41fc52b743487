//! How servers look right now, as their workers have last told.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::core::names::{ServerId, WorkerId};
use crate::core::server::{Live, Status, WorkerStatus};
use crate::ports::Hint;

/// A worker that has told nothing for so long is gone.
const FRESH: Duration = Duration::from_secs(6);

pub struct Board(Mutex<Told>);

struct Told {
    hints: Receiver<Hint>,
    servers: HashMap<ServerId, (WorkerId, Live, Instant)>,
}

impl Board {
    pub fn new(hints: Receiver<Hint>) -> Self {
        Self(Mutex::new(Told { hints, servers: HashMap::new() }))
    }

    /// How each of these servers looks, and the worker that runs it.
    pub fn look(&self, servers: &[ServerId]) -> Vec<(Live, Option<WorkerId>)> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.read();
        let now = Instant::now();
        told.servers.retain(|_, (_, _, at)| now.duration_since(*at) < FRESH);
        let look = |id| match told.servers.get(id) {
            Some((worker, live, _)) => (live.clone(), Some(*worker)),
            None => (Live::of(Status::Disconnected), None),
        };
        servers.iter().map(look).collect()
    }

    /// Reads what has been told meanwhile, so that nobody has to wake for every word of it.
    pub fn catch_up(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read();
    }
}

impl Told {
    fn read(&mut self) {
        loop {
            match self.hints.try_recv() {
                Ok(Hint::Status(status)) => match serde_json::from_slice::<WorkerStatus>(&status) {
                    Ok(WorkerStatus { worker, servers }) => {
                        let now = Instant::now();
                        self.servers.extend(servers.into_iter().map(|(id, live)| (id, (worker, live, now))));
                    }
                    Err(error) => tracing::debug!(%error, "a worker's status cannot be read"),
                },
                Ok(Hint::LogMoved(_)) => {}
                // Everything is told again every two seconds.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}
