//! The bus of many processes: core NATS for asks and hints, JetStream for jobs.
//!
//! What this process itself serves alone (a server it runs, the worker it is) is asked without a detour;
//! so is every pool while NATS is away, which is how one process goes on by itself.

mod calls;
mod hints;
mod jobs;
mod parts;
mod takers;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use async_trait::async_trait;
use tokio::sync::broadcast;

use super::bus_in_process::InProcessBus;
use crate::core::command::Area;
use crate::ports::{Ask, Bus, BusError, Hint, Job, Jobs, Place, Reply, Serve, Serving};
use calls::Calls;
use hints::Hints;
use jobs::Lane;
use takers::Takers;

/// Messages a subscription may be behind; past that they are lost, and their senders hear nothing.
const BEHIND: usize = 65_536;
/// A server that answers no ping for so long is left for another.
const PING: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);

/// Where NATS is, and who we are there.
pub struct NatsOptions {
    /// `nats://` or `tls://`, with the user and password in them where there are any.
    pub urls: Vec<String>,
    /// A `.creds` file.
    pub creds: Option<PathBuf>,
    /// A PEM file of certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// The first part of every subject: `mcp.v1`. Its name also makes the names of the streams.
    pub prefix: String,
    /// Bytes of the largest body that is taken.
    pub max_body: usize,
}

pub struct NatsBus {
    shared: Arc<Shared>,
    local: Arc<InProcessBus>,
    calls: Calls,
    takers: Takers,
    hints: Hints,
    lane: Arc<Lane>,
}

/// What all parts of the bus work with.
struct Shared {
    client: Client,
    prefix: String,
    max_body: usize,
}

impl Shared {
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The largest body that goes in one message, with room for its headers.
    fn one_message(&self) -> usize {
        self.client.max_payload() / 4 * 3
    }
}

impl NatsBus {
    /// Connects, once. What goes wrong is told without what the URL holds.
    pub async fn connect(options: NatsOptions) -> Result<Arc<Self>, String> {
        let urls = options.urls.iter().map(|url| url.parse::<ServerAddr>());
        let urls = urls.collect::<Result<Vec<_>, _>>().map_err(|_| "NATS_URL is no URL of NATS".to_owned())?;
        let mut connect = ConnectOptions::new()
            .name("mcp-api")
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .subscription_capacity(BEHIND)
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| Duration::from_millis((attempts as u64 * 50).min(1000)))
            .event_callback(|event| async move { tell(&event) });
        if let Some(creds) = &options.creds {
            let read = connect.credentials_file(creds).await;
            connect = read.map_err(|error| format!("NATS_CREDS cannot be used: {error}"))?;
        }
        if let Some(ca) = options.ca {
            connect = connect.add_root_certificates(ca);
        }
        let client = connect.connect(urls).await.map_err(|error| error.kind().to_string())?;
        let shared = Arc::new(Shared { client, prefix: options.prefix, max_body: options.max_body });
        let calls = Calls::start(&shared).await.map_err(|error| error.to_string())?;
        let takers = Takers::start(&shared).await.map_err(|error| error.to_string())?;
        let hints = Hints::start(&shared).await.map_err(|error| error.to_string())?;
        let lane = Arc::new(Lane::new(shared.clone()));
        Ok(Arc::new(Self { shared, local: InProcessBus::new(), calls, takers, hints, lane }))
    }
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("NATS is away; trying to get back"),
        Event::SlowConsumer(_) => {
            tracing::error!("messages of NATS came faster than they were taken, and some are lost")
        }
        other => tracing::warn!(event = %other, "NATS"),
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn call(&self, ask: Ask) -> Result<Reply, BusError> {
        let connected = self.shared.is_connected();
        let of_pool = matches!(ask.to, Place::Pool(_));
        if self.local.serves(ask.to) && (!of_pool || !connected) {
            return self.local.call(ask).await;
        }
        if !connected {
            return Err(BusError::Away);
        }
        self.calls.call(ask).await
    }

    fn serve(&self, place: Place, taker: Arc<dyn Serve>) -> Serving {
        let local = self.local.serve(place, taker.clone());
        let remote = self.takers.serve(place, taker);
        Serving(Box::new(move || {
            drop(local);
            drop(remote);
        }))
    }

    async fn submit(&self, job: Job) -> Result<(), BusError> {
        self.lane.submit(job).await
    }

    fn jobs(&self, area: Area) -> Box<dyn Jobs> {
        Box::new(self.lane.take(area))
    }

    fn publish(&self, hint: Hint) {
        self.hints.publish(hint);
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.listen()
    }

    async fn waiting(&self) -> usize {
        self.lane.waiting().await
    }
}
