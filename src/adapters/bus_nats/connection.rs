//! The connection to NATS. The client connects within seconds or fails, and reconnects without an end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::traits::Publisher;
use async_nats::connection::State;
use async_nats::message::OutboundMessage;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subject, Subscriber};
use futures::FutureExt;
use percent_encoding::percent_decode_str;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::error::NatsError;
use super::outbox::Outbox;

/// The time limit for a connection to one address.
const CONNECT: Duration = Duration::from_secs(2);
/// The time limit for all addresses together.
const CONNECT_ALL: Duration = Duration::from_secs(5);
/// The time between two pings. After three pings without a reply, the client disconnects.
const PING: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to reconnect.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The addresses of NATS, the credentials and the limits.
#[derive(Clone)]
pub struct NatsOptions {
    /// Addresses with `nats://` or `tls://`, with a user and a password if the server wants them.
    pub urls: Vec<String>,
    /// The credentials file: a JWT and the seed of its key.
    pub creds: Option<PathBuf>,
    /// The certificates that TLS trusts. Without this file, TLS trusts the certificates of the system.
    pub ca: Option<PathBuf>,
    /// The first part of all subjects.
    pub prefix: String,
    /// The longest body that the program accepts, in bytes.
    pub max_body: usize,
}

impl NatsOptions {
    pub const PREFIX: &str = "mcp.v1";
    /// The largest argument (16 MB) and the text around it.
    pub const MAX_BODY: usize = 17 << 20;

    pub fn new(urls: Vec<String>) -> Self {
        Self {
            urls,
            creds: None,
            ca: None,
            prefix: Self::PREFIX.into(),
            max_body: Self::MAX_BODY,
        }
    }
}

/// The connection of one process.
pub(super) struct NatsConnection {
    pub(super) client: Client,
    outbox: Arc<Outbox>,
    runtime: Handle,
    /// The number of connections so far, which changes after every reconnect.
    pub(super) connected: watch::Receiver<u64>,
}

impl NatsConnection {
    pub(super) async fn connect(options: &NatsOptions) -> Result<Self, NatsError> {
        let (servers, user) = parse_addresses(&options.urls)?;
        let (connections, connected) = watch::channel(0);
        let mut connect = ConnectOptions::new()
            .name("mcp-api")
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .max_reconnects(None)
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                log_event(&event);
                if event == Event::Connected {
                    connections.send_modify(|count| *count += 1);
                }
                std::future::ready(())
            });
        connect = match user {
            Some((user, Some(password))) => connect.user_and_password(user, password),
            Some((token, None)) => connect.token(token),
            None => connect,
        };
        if let Some(path) = &options.creds {
            let error = |source| NatsError::Credentials {
                path: path.clone(),
                source,
            };
            connect = connect.credentials_file(path).await.map_err(error)?;
        }
        if let Some(ca) = &options.ca {
            connect = connect.add_root_certificates(ca.clone());
        }
        let names = server_names(&servers);
        match tokio::time::timeout(CONNECT_ALL, connect.connect(servers)).await {
            Ok(Ok(client)) => Ok(Self {
                client,
                outbox: Arc::default(),
                runtime: Handle::current(),
                connected,
            }),
            Ok(Err(error)) => Err(NatsError::from_connect(names, error)),
            Err(_) => Err(NatsError::NoReply { servers: names }),
        }
    }

    pub(super) async fn subscribe(&self, subject: String) -> Result<Subscriber, NatsError> {
        let subscriber = self.client.subscribe(subject).await;
        subscriber.map_err(NatsError::Subscribe)
    }

    /// Returns whether the client is connected. The client buffers messages while it is disconnected and
    /// sends them after the reconnect, when their senders no longer wait.
    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Returns the number of the current connection. Every reconnect has a new number.
    pub(super) fn number(&self) -> u64 {
        *self.connected.borrow()
    }

    /// Passes the messages of [`Self::send`] and [`Self::send_before`] to the client. Never returns.
    pub(super) fn pass_on(&self) -> impl Future<Output = ()> + Send + 'static {
        self.outbox.clone().pass_on(self.client.clone())
    }

    /// Publishes a message. The order of messages is kept while the outbox and the client have room.
    pub(super) fn send(&self, message: OutboundMessage) {
        if let Some(message) = self.outbox.push(message) {
            self.send_past_outbox(message);
        }
    }

    /// Publishes a message before those that wait in the outbox.
    pub(super) fn send_past_outbox(&self, message: OutboundMessage) {
        let client = self.client.clone();
        let mut sending = Box::pin(async move {
            if let Err(error) = client.publish_message(message).await {
                tracing::warn!(%error, "cannot send a message over NATS");
            }
        });
        if tokio::task::unconstrained(&mut sending)
            .now_or_never()
            .is_none()
        {
            self.runtime.spawn(sending);
        }
    }

    /// Publishes a message. If the outbox has no room for it, waits for room at the client until the time is over. Returns
    /// whether the outbox or the client has the message.
    pub(super) async fn send_before(&self, message: OutboundMessage, until: Instant) -> bool {
        let Some(message) = self.outbox.push(message) else {
            return true;
        };
        let sending = self.client.publish_message(message);
        matches!(timeout_at(until, sending).await, Ok(Ok(())))
    }

    /// Publishes a message if the queue of the client has room for it now. Returns whether it has.
    pub(super) fn try_send(&self, message: OutboundMessage) -> bool {
        let sending = std::pin::pin!(self.client.publish_message(message));
        tokio::task::unconstrained(sending).now_or_never().is_some()
    }

    /// Publishes a message if it has a receiver.
    pub(super) fn send_to(
        &self,
        to: Option<Subject>,
        message: impl FnOnce(Subject) -> OutboundMessage,
    ) {
        if let Some(to) = to {
            self.send(message(to));
        }
    }

    /// Runs a future on the caller's thread until it waits, and continues it on a task.
    pub(super) fn now_or_later(&self, work: impl Future<Output = ()> + Send + 'static) {
        // A guard can be dropped on a thread without a runtime.
        let _inside = self.runtime.enter();
        let mut work = Box::pin(work);
        if tokio::task::unconstrained(&mut work)
            .now_or_never()
            .is_none()
        {
            self.runtime.spawn(work);
        }
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }
}

/// Returns the pause before an attempt to reconnect.
fn pause(attempt: usize) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        number => Duration::from_millis(10 << number.min(8)).min(MAX_PAUSE),
    }
}

fn log_event(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("lost the connection to NATS; reconnecting"),
        Event::SlowConsumer(_) => {
            tracing::error!("the NATS client drops messages, because too many arrive at once");
        }
        Event::ServerError(error) => tracing::warn!(%error, "NATS reports an error"),
        Event::ClientError(error) => tracing::debug!(%error, "cannot reconnect to NATS; retrying"),
        Event::LameDuckMode => tracing::info!("NATS closes the connection soon"),
        Event::Draining | Event::Closed => {}
    }
}

/// Returns hosts and ports, without users and passwords.
fn server_names(servers: &[ServerAddr]) -> String {
    let names: Vec<_> = servers
        .iter()
        .map(|server| format!("{}:{}", server.host(), server.port()))
        .collect();
    names.join(", ")
}

/// A user with a password, or a token.
type User = (String, Option<String>);

/// Returns the addresses without user and password, and the user that all addresses name.
fn parse_addresses(urls: &[String]) -> Result<(Vec<ServerAddr>, Option<User>), NatsError> {
    let mut servers = Vec::new();
    let mut user = None;
    for (index, url) in urls.iter().enumerate() {
        let invalid = NatsError::Address(index + 1);
        let Ok(full) = url.trim().parse::<ServerAddr>() else {
            return Err(invalid);
        };
        if !matches!(full.scheme(), "nats" | "tls") || full.host().is_empty() {
            return Err(invalid);
        }
        if let Some(name) = full.username() {
            let named = (decode(name), full.password().map(decode));
            if user.get_or_insert_with(|| named.clone()) != &named {
                return Err(NatsError::DifferentUsers);
            }
        }
        servers.push(without_user(&full).parse().map_err(|_| invalid)?);
    }
    if servers.is_empty() {
        return Err(NatsError::NoAddress);
    }
    Ok((servers, user))
}

fn without_user(server: &ServerAddr) -> String {
    let host = match server.host() {
        v6 if v6.contains(':') => format!("[{v6}]"),
        host => host.to_owned(),
    };
    format!("{}://{host}:{}", server.scheme(), server.port())
}

/// Decodes `%40` in the user and the password of an address.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(urls: &[&str]) -> Result<(Vec<String>, Option<User>), NatsError> {
        let urls: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
        let (servers, user) = parse_addresses(&urls)?;
        let servers = servers.into_iter().map(|server| server.into_inner().into());
        Ok((servers.collect(), user))
    }

    #[test]
    fn an_address_loses_its_user_and_password() {
        let urls = ["nats://me:p%40ss@one:4000", "tls://[::1]", "three"];
        let (servers, user) = parse(&urls).expect("addresses");
        assert_eq!(
            servers,
            ["nats://one:4000", "tls://[::1]:4222", "nats://three:4222"]
        );
        assert_eq!(user, Some(("me".into(), Some("p@ss".into()))));
        let (_, user) = parse(&["token@one"]).expect("an address");
        assert_eq!(user, Some(("token".into(), None)));
        let (_, user) = parse(&["nats://me:100%25%zz@one"]).expect("an address");
        assert_eq!(user, Some(("me".into(), Some("100%%zz".into()))));
    }

    #[test]
    fn an_error_does_not_repeat_the_address() {
        for urls in [
            &["http://me:hunter2@one"][..],
            &["nats://me:hunter2@one:port"],
            &["a", "me:hunter2@:1:2"],
            &[],
        ] {
            let error = parse(urls).expect_err("no address").to_string();
            assert!(
                !error.contains("hunter2") && error.contains("NATS"),
                "{error}"
            );
        }
        assert!(parse(&["nats://a:b@one", "nats://a:c@two"]).is_err());
    }
}
