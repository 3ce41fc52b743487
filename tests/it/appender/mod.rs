//! The appender and the projection over the ports: no change is lost or doubled, and all processes see
//! one order.

mod batches;
mod conflicts;
mod repeats;
mod size;

mod snapshots;

use std::sync::{Arc, Mutex, mpsc};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::samples::{command_id, config, registered, server_id, snapshot};
use crate::store_contract::{Store, fresh, sqlite};
use mcp_api::adapters::bus_local::LocalBus;
use mcp_api::core::catalog::Catalog;
use mcp_api::core::command::{ChangeOrigin, RegisterServer};
use mcp_api::core::decide::server::register_server;
use mcp_api::core::event::{Actor, Entry, StoredEvent};
use mcp_api::core::failure::Failure;
use mcp_api::core::ids::{CommandId, Position};
use mcp_api::core::model::server::ServerConfig;
use mcp_api::eventlog::appender::{Appender, Committed};
use mcp_api::eventlog::projection::Projection;
use mcp_api::ports::event_log::{EventLog, ReadLimit};

struct Process {
    projection: Arc<Projection>,
    appender: Appender,
}

impl Process {
    async fn start(log: &Arc<dyn EventLog>) -> Self {
        let projection = Projection::open(log.clone(), LocalBus::new())
            .await
            .expect("followed");
        Self {
            appender: Appender::start(projection.clone()),
            projection,
        }
    }

    async fn register(&self, id: CommandId, number: usize) -> Result<Committed, Failure> {
        self.register_with(id, number, config()).await
    }

    async fn register_with(
        &self,
        id: CommandId,
        number: usize,
        config: ServerConfig,
    ) -> Result<Committed, Failure> {
        let name = format!("server-{number}").parse().expect("a name");
        let command = RegisterServer {
            origin: ChangeOrigin::new(id, Actor::default()),
            server: server_id(number),
            name,
            config,
            enabled: true,
            session: None,
            sealed: vec![],
        };
        self.appender
            .commit(id, Actor::default(), move |catalog| {
                register_server(catalog, &command)
            })
            .await
    }

    fn shown(&self) -> String {
        shown(&self.projection.catalog())
    }
}

async fn start() -> (Store, TempDir, Process) {
    let (store, dir) = fresh(sqlite).await;
    let process = Process::start(&store.log).await;
    (store, dir, process)
}

/// Returns the whole catalog as text.
fn shown(catalog: &Catalog) -> String {
    String::from_utf8(snapshot(catalog)).expect("JSON")
}

/// Returns the whole log, and checks that it has no gap and no command twice.
async fn whole(log: &Arc<dyn EventLog>) -> Vec<Entry> {
    let entries = log
        .read(Position(0), ReadLimit::entries(1_000_000))
        .await
        .expect("entries");
    let positions: Vec<u64> = entries.iter().map(|entry| entry.position.0).collect();
    assert_eq!(positions, (1..=entries.len() as u64).collect::<Vec<_>>());
    let mut ids: Vec<_> = entries
        .iter()
        .flat_map(|entry| &entry.commits)
        .map(|commit| commit.command_id)
        .collect();
    ids.sort();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "a command is in the log twice");
    entries
}

fn folded(entries: &[Entry]) -> Catalog {
    let mut catalog = Catalog::default();
    entries
        .iter()
        .for_each(|entry| catalog.fold(entry).expect("folded"));
    catalog
}

/// Blocks the appender of a process in one decision until the gate is dropped.
async fn hold_up(
    process: &Process,
    number: usize,
) -> (mpsc::Sender<()>, JoinHandle<Result<Committed, Failure>>) {
    let (gate, opened) = mpsc::channel();
    let (began, begun) = tokio::sync::oneshot::channel();
    let (opened, began) = (Mutex::new(opened), Mutex::new(Some(began)));
    let appender = process.appender.clone();
    let held = tokio::spawn(async move {
        let decide = move |_: &Catalog| {
            began
                .lock()
                .expect("a lock")
                .take()
                .into_iter()
                .for_each(|began| began.send(()).expect("heard"));
            let _ = opened.lock().expect("a lock").recv();
            Ok(vec![registered(number)])
        };
        appender
            .commit(command_id(), Actor::default(), decide)
            .await
    });
    begun.await.expect("it decides");
    (gate, held)
}

fn from_the_future() -> StoredEvent {
    let event = r#"{"type":"server.cloned","v":3,"subject":"server/x","data":{}}"#;
    serde_json::from_str(event).expect("a stored event")
}
