//! The composition root: puts adapters into ports, and the parts together. The only room that names
//! an adapter.

mod adapters;
pub mod backup;
mod keys;
pub mod predecessor;

use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::adapters::Adapters;
use crate::cluster::membership::WorkerRegistry;
use crate::config::Config;
use crate::crypto::seal::SealError;
use crate::eventlog::appender::Appender;
use crate::eventlog::projection::Projection;
use crate::http::ApiState;
use crate::jobs::client::JobClient;
use crate::ports::error::StoreError;
use crate::telemetry::metrics::Metrics;
use crate::workers::Workers;
use crate::{http, workers};

/// How long what was answered may take to leave; who does not read is not waited for.
const LINGER: Duration = Duration::from_secs(2);
/// How long requests are still taken while others hear that this process leaves.
const LEAVING: Duration = Duration::from_millis(500);
/// How long what was sent may wait for its reader to take some of it.
const UNREAD: Duration = Duration::from_secs(20);
/// How long the lock of one that was just killed may still be held: a child it was starting has it until it becomes
/// another program.
const RELEASED: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);
/// How often the board reads what nobody has looked at.
const BOARD: Duration = Duration::from_millis(500);

/// Why the program cannot start. A sentence for the one who started it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "DATA_DIR {path} is in use by another mcp-api; stop that one, or give this one a folder of its own"
    )]
    InUse { path: String },
    #[error("DATA_DIR {path} cannot be used: {cause}")]
    DataDir { path: String, cause: io::Error },
    #[error("HOST {host} and PORT {port} cannot be listened on: {cause}")]
    Listen {
        host: String,
        port: u16,
        cause: io::Error,
    },
    #[error(
        "SECRETS_KEY is not the key that this deployment's secrets were sealed with; set that one, or list it in SECRETS_KEYS_OLD"
    )]
    WrongKey,
    #[error(
        "SECRETS_KEY is missing: this deployment's secrets were sealed with one, and there is no {path}"
    )]
    NoKey { path: String },
    #[error(
        "SECRETS_KEY is too short for new data; create a key with openssl rand -hex 32, or use a passphrase of at least 12 characters"
    )]
    WeakKey,
    #[error("SECRETS_KEY cannot be used: {0}")]
    Seal(SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{service} could not be reached within {} seconds: {why}", limit.as_secs())]
    Away {
        service: &'static str,
        limit: Duration,
        why: String,
    },
    #[error("mcp-api cannot serve: {0}")]
    Serve(io::Error),
}

/// Serves until SIGTERM or Ctrl-C, then drains. `listening` is told the real URL.
pub async fn serve(config: Config, listening: impl FnOnce(&str)) -> Result<(), StartError> {
    let stop = stop_signal().map_err(StartError::Serve)?;
    serve_until(stop, config, listening).await
}

/// Serves until `stop`, then drains.
pub async fn serve_until(
    stop: impl Future<Output = ()>,
    config: Config,
    listening: impl FnOnce(&str),
) -> Result<(), StartError> {
    let data_dir = &config.data_dir.path;
    // What is embedded lies in DATA_DIR, for one process at a time; the services look after themselves.
    let embedded = config.services.mongo.is_none();
    let _lock = if embedded {
        Some(lock(data_dir)?)
    } else {
        None
    };
    forbid_looking();
    allow_files();
    let (host, port) = (config.listen.host.clone(), config.listen.port);
    let listener = TcpListener::bind((config.listen.address, port)).await;
    let listener = listener.map_err(|cause| StartError::Listen { host, port, cause })?;

    let mut stop = pin!(stop);
    let opened = tokio::select! {
        opened = adapters::open(&config) => opened?,
        () = &mut stop => return Ok(()),
    };
    let Adapters {
        log,
        vault,
        leases,
        bus,
    } = opened;
    let (sealer, opener) = keys::open(&*vault, &config.keys, data_dir).await?;
    let projection = Projection::open(log, bus.clone()).await?;
    let appender = Appender::start(projection.clone());
    // Before the workers: it hears from the first moment how their servers are.
    let registry = Arc::new(WorkerRegistry::new(bus.hints()));
    let job_client = JobClient::new(
        appender.clone(),
        projection.clone(),
        vault.clone(),
        sealer.clone(),
        registry.clone(),
        config.limits.clone(),
    );
    let metrics = Metrics::new();
    tokio::spawn(projection.clone().follow_log());
    let ending = CancellationToken::new();
    tokio::spawn(
        ending
            .clone()
            .run_until_cancelled_owned(keep_up(registry.clone())),
    );
    let requests = TaskTracker::new();
    let facade = ApiState::new(http::ApiDeps {
        projection: projection.clone(),
        bus: bus.clone(),
        registry: registry.clone(),
        sealer: sealer.clone(),
        job_client: job_client.clone(),
        access: config.access.clone(),
        limits: config.limits.clone(),
        folders: config.packages.folders.clone(),
        metrics: metrics.clone(),
        ending: ending.clone(),
        requests: requests.clone(),
    });
    let pools = config
        .roles
        .worker
        .clone()
        .filter(|pools| pools.tools || pools.packages || pools.tokens);
    let served = bus.clone();
    let workers = pools.map(|pools| {
        Workers::start(workers::WorkerDeps {
            projection: projection.clone(),
            appender,
            job_client,
            bus,
            registry,
            vault,
            leases,
            opener,
            sealer,
            metrics,
            limits: config.limits.clone(),
            packages: config.packages.clone(),
            google: config.google,
            alone: config.services.nats.is_none(),
            pools,
        })
    });

    if workers.is_some() {
        // Whoever reads that this process listens may ask it at once.
        served.flush().await;
    }
    let address = listener.local_addr().map_err(StartError::Serve)?;
    tracing::info!(addr = %address, "listening");
    listening(&format!("http://{address}"));
    let listener = listener.tap_io(|stream| {
        // Answers are small and somebody waits for each: nothing is gained by holding one back.
        let _ = stream.set_nodelay(true);
        // Who takes nothing for so long holds memory and a place, and is cut off.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&*stream, UNREAD.as_millis() as u32);
    });
    let leaving = facade.clone();
    let router = if config.roles.api {
        http::router(facade)
    } else {
        http::health_router(facade)
    };
    let stopping = ending.clone();
    let serving = tokio::spawn(
        axum::serve(listener, router)
            .with_graceful_shutdown(async move { stopping.cancelled().await })
            .into_future(),
    );
    stop.await;
    tracing::info!("draining");
    leaving.start_draining();
    if config.services.nats.is_some() && config.roles.api {
        // Others are there to be asked: who balances the load hears it of /readyz, and meanwhile what
        // comes is taken. A connection that nobody has accepted yet would be lost.
        tokio::time::sleep(LEAVING).await;
    }
    ending.cancel();
    // No new calls; the running ones finish, then their servers are stopped. One time for both.
    let until = Instant::now() + config.limits.drain;
    let finished = tokio::time::timeout_at(until, async {
        requests.close();
        requests.wait().await;
        // What is open now has no request: half a head, or a stream whose listener does not read.
        tokio::time::timeout(LINGER, serving).await
    });
    if !matches!(finished.await, Ok(Ok(_))) {
        tracing::warn!("connections were still open and are cut off");
    }
    if let Some(workers) = workers {
        workers
            .drain(until.saturating_duration_since(Instant::now()))
            .await;
    }
    Ok(())
}

/// Reads what workers tell, also when nobody looks.
async fn keep_up(registry: Arc<WorkerRegistry>) {
    let mut every = tokio::time::interval(BOARD);
    loop {
        every.tick().await;
        registry.refresh();
    }
}

/// Ends at SIGTERM or Ctrl-C, from this call on.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Makes the folder and locks it for as long as the file is open.
fn lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.display().to_string();
    let unusable = |cause| StartError::DataDir {
        path: path.clone(),
        cause,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(unusable)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data_dir.join("lock"));
    let file = file.map_err(unusable)?;
    let until = std::time::Instant::now() + RELEASED;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if std::time::Instant::now() < until => {
                std::thread::sleep(LOOK)
            }
            Err(TryLockError::WouldBlock) => return Err(StartError::InUse { path }),
            Err(TryLockError::Error(cause)) => return Err(unusable(cause)),
        }
    }
}

/// Other processes of the same user cannot read this one's memory, nor its environment.
fn forbid_looking() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user can look into this one");
    }
}

/// A server takes five descriptors and a connection one: the usual 1,024 are gone with 200 servers, and then
/// nobody can connect any more. The limit that may not be passed is the system's.
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const FILES: u64 = 65_536;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(FILES).min(FILES);
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(wanted),
                maximum,
            },
        )
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
