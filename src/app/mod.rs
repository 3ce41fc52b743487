//! The composition root: connects adapters, services, the HTTP API and the worker. No other module
//! names an adapter.

mod adapters;
pub mod archive;
pub mod backup;
mod data_dir;
mod error;
mod keys;
pub mod predecessor;
mod process;
mod services;

use std::fs::File;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::data_dir::lock_data_dir;
pub use self::error::StartError;
pub use self::process::stop_signal;
use self::services::Services;
use crate::config::Config;
use crate::http;
use crate::http::ApiState;
use crate::http::listener::{ConnectionLimits, serve_connections};
use crate::time::clock;
use crate::workers::Workers;
use crate::workers::guard::claim_groups;

/// Open connections may take this long to end after the last request. A client that does not read
/// its answer is disconnected.
const CONNECTION_LINGER: Duration = Duration::from_secs(2);
/// A draining facade accepts requests for this long, until the load balancer has read `/readyz`.
const READYZ_LEAD: Duration = Duration::from_millis(500);

/// Serves until SIGTERM or Ctrl-C, then drains. Calls `on_listening` with the URL of the program.
///
/// # Errors
/// Returns the reason why the program cannot start.
pub async fn serve(config: Config, on_listening: impl FnOnce(&str)) -> Result<(), StartError> {
    let stop = stop_signal().map_err(StartError::Serve)?;
    serve_until(stop, config, on_listening).await
}

/// Serves until `stop`, then drains. Calls `on_listening` with the URL of the program.
///
/// # Errors
/// Returns the reason why the program cannot start.
pub async fn serve_until(
    stop: impl Future<Output = ()>,
    mut config: Config,
    on_listening: impl FnOnce(&str),
) -> Result<(), StartError> {
    let lock = lock_embedded_store(&config)?;
    if let Some(lock) = &lock {
        claim_groups(lock);
    }
    process::forbid_inspection();
    let file_limit = process::raise_file_limit();
    let listener = bind_listener(&config).await?;
    let mut stop = pin!(stop);
    let adapters = tokio::select! {
        opened = adapters::open_adapters(&config) => opened?,
        () = &mut stop => return Ok(()),
    };
    let services = Services::start(adapters, &config).await?;
    // Half of the descriptors stay free for child processes and the store.
    let connections = config.listen.max_connections.min(file_limit as usize / 2);
    let state = services.api_state(&config, connections);
    let google = std::mem::take(&mut config.google);
    let workers = services.start_worker(&config, google).await;
    let address = listener.local_addr().map_err(StartError::Serve)?;
    tracing::info!(addr = %address, "listening");
    on_listening(&format!("http://{address}"));
    let limits = ConnectionLimits {
        connections,
        payload: config.limits.payload,
    };
    let serving = start_connections(listener, state.clone(), &services, &config, limits);
    stop.await;
    drain(&config, &services, &state, serving, workers).await;
    services.close().await;
    Ok(())
}

/// Locks `DATA_DIR` if the embedded store uses it. The external services lock their data
/// themselves.
fn lock_embedded_store(config: &Config) -> Result<Option<File>, StartError> {
    if config.services.mongo.is_some() {
        return Ok(None);
    }
    lock_data_dir(&config.data_dir.path).map(Some)
}

async fn bind_listener(config: &Config) -> Result<TcpListener, StartError> {
    let listen = &config.listen;
    TcpListener::bind((listen.address, listen.port))
        .await
        .map_err(|source| StartError::Listen {
            host: listen.host.clone(),
            port: listen.port,
            source,
        })
}

fn start_connections(
    listener: TcpListener,
    state: Arc<ApiState>,
    services: &Services,
    config: &Config,
    limits: ConnectionLimits,
) -> JoinHandle<()> {
    let api = if config.roles.api {
        http::api(state)
    } else {
        http::health_api(state)
    };
    let ending = services.ending().clone();
    tokio::spawn(serve_connections(listener, api, limits, ending))
}

/// Finishes the running requests, closes the connections and stops the worker. Requests and the
/// worker share one time limit.
async fn drain(
    config: &Config,
    services: &Services,
    state: &ApiState,
    connections: JoinHandle<()>,
    workers: Option<Workers>,
) {
    tracing::info!("draining");
    state.start_draining();
    if config.services.nats.is_some() && config.roles.api {
        // The load balancer sends requests to this process until it has read `/readyz`. The process
        // accepts these requests, because a connection that no process accepts is lost.
        tokio::time::sleep(READYZ_LEAD).await;
    }
    services.ending().cancel();
    let deadline = clock::monotonic() + config.limits.drain;
    if !finish_connections(services, connections, deadline).await {
        tracing::warn!("connections are still open and are closed now");
    }
    if let Some(workers) = workers {
        let left = deadline.saturating_duration_since(clock::monotonic());
        workers.drain(left).await;
    }
}

/// Waits for the requests and then for the connections. Returns whether all have ended in time.
async fn finish_connections(
    services: &Services,
    connections: JoinHandle<()>,
    deadline: Instant,
) -> bool {
    let finished = async {
        services.finish_requests().await;
        // A connection that is open now has no request: its head is unfinished, or its client
        // does not read.
        tokio::time::timeout(CONNECTION_LINGER, connections).await
    };
    let in_time = tokio::time::timeout_at(deadline, finished).await;
    matches!(in_time, Ok(Ok(_)))
}
