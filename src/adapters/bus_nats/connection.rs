//! The connection to NATS: made quickly or not at all, kept for ever, and never a place where a
//! secret of an address is shown.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::client::traits::Publisher;
use async_nats::connection::State;
use async_nats::message::OutboundMessage;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, Subject};
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(2);
/// How long all addresses together may take.
const CONNECT_ALL: Duration = Duration::from_secs(5);
/// A server that answers no ping is given up after three of these.
const PING: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to reconnect.
const PAUSE: Duration = Duration::from_secs(1);

/// Where NATS is and who we are there.
#[derive(Clone)]
pub struct NatsOptions {
    /// `nats://` or `tls://` addresses, a user and a password in them where the server asks for such.
    pub urls: Vec<String>,
    /// A credentials file: a JWT and the seed of its key.
    pub creds: Option<PathBuf>,
    /// The certificates that TLS trusts, instead of the system's.
    pub ca: Option<PathBuf>,
    /// What all subjects begin with.
    pub prefix: String,
    /// The longest body that is taken, in bytes.
    pub max_body: usize,
}

impl NatsOptions {
    pub const PREFIX: &str = "mcp.v1";
    /// The largest argument there is, 16 MB, and a little for what stands around it.
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

pub struct NatsConnection {
    pub client: Client,
    runtime: Handle,
    /// Changes with every connection made.
    pub connected: watch::Receiver<u64>,
}

impl NatsConnection {
    pub async fn connect(options: &NatsOptions) -> Result<Self, String> {
        let (servers, user) = addresses(&options.urls)?;
        let (made, connected) = watch::channel(0);
        let mut connecting = ConnectOptions::new()
            .name("mcp-api")
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .max_reconnects(None)
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                tell(&event);
                if event == Event::Connected {
                    made.send_modify(|n| *n += 1);
                }
                std::future::ready(())
            });
        connecting = match user {
            Some((user, Some(password))) => connecting.user_and_password(user, password),
            Some((token, None)) => connecting.token(token),
            None => connecting,
        };
        if let Some(creds) = &options.creds {
            connecting = connecting.credentials_file(creds).await.map_err(|error| {
                format!(
                    "the NATS credentials file {} cannot be used: {error}",
                    creds.display()
                )
            })?;
        }
        if let Some(ca) = &options.ca {
            connecting = connecting.add_root_certificates(ca.clone());
        }
        let places = servers
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect::<Vec<_>>();
        let places = places.join(", ");
        match tokio::time::timeout(CONNECT_ALL, connecting.connect(servers)).await {
            Ok(Ok(client)) => Ok(Self {
                client,
                runtime: Handle::current(),
                connected,
            }),
            Ok(Err(error)) => Err(format!("NATS at {places} {}", reason(&error))),
            Err(_) => Err(format!("NATS at {places} does not answer")),
        }
    }

    /// Whether the connection stands. What is published while it does not would be sent when it stands
    /// again, long after its sender has gone.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The number of the connection; each one that is made anew has another.
    pub fn connection(&self) -> u64 {
        *self.connected.borrow()
    }

    /// Publishes as soon as there is room, and in order where there is.
    pub fn send(&self, message: OutboundMessage) {
        let client = self.client.clone();
        let mut sending = Box::pin(async move { client.publish_message(message).await });
        match tokio::task::unconstrained(&mut sending).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "a message could not be sent"),
            None => drop(self.runtime.spawn(sending)),
        }
    }

    /// Sends what says all in its headers, where there is somebody to send it to.
    pub fn send_to(&self, to: Option<Subject>, message: impl FnOnce(Subject) -> OutboundMessage) {
        if let Some(to) = to {
            self.send(message(to));
        }
    }

    /// Runs a future now, as far as it goes; the rest of it on a task.
    pub fn now_or_later(&self, work: impl Future<Output = ()> + Send + 'static) {
        // It may be called where there is no runtime: by whoever drops a guard last.
        let _inside = self.runtime.enter();
        let mut work = Box::pin(work);
        if tokio::task::unconstrained(&mut work)
            .now_or_never()
            .is_none()
        {
            self.runtime.spawn(work);
        }
    }

    pub fn spawn(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.runtime.spawn(work)
    }
}

fn pause(attempt: usize) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        n => Duration::from_millis(10 << n.min(8)).min(PAUSE),
    }
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("NATS is connected"),
        Event::Disconnected => tracing::warn!("the connection to NATS is lost"),
        Event::SlowConsumer(_) => {
            tracing::error!("messages of NATS are dropped: too many came at once")
        }
        Event::ServerError(error) => tracing::warn!(%error, "NATS complains"),
        Event::ClientError(error) => tracing::debug!(%error, "an attempt to reach NATS failed"),
        Event::LameDuckMode => tracing::info!("NATS will soon close the connection"),
        Event::Draining | Event::Closed => {}
    }
}

/// Why there is no connection, for the second half of a sentence.
fn reason(error: &async_nats::ConnectError) -> String {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            "refuses the user, password, token or credentials".into()
        }
        ConnectErrorKind::TimedOut => "does not answer".into(),
        ConnectErrorKind::Dns => "has no address: the name is not known".into(),
        _ => format!("cannot be reached: {error}"),
    }
}

/// A user with a password, or a token alone.
type User = (String, Option<String>);

/// The servers without the secrets in their addresses, and these.
fn addresses(urls: &[String]) -> Result<(Vec<ServerAddr>, Option<User>), String> {
    let (mut servers, mut user) = (Vec::new(), None);
    for (n, url) in urls.iter().enumerate() {
        // The text itself is not repeated: it may hold a password.
        let bad = || {
            format!(
                "address {} of NATS is none: it looks like nats://host:4222 or tls://host:4222",
                n + 1
            )
        };
        let full: ServerAddr = url.trim().parse().map_err(|_| bad())?;
        if !matches!(full.scheme(), "nats" | "tls") || full.host().is_empty() {
            return Err(bad());
        }
        if let Some(name) = full.username() {
            let own = (decoded(name), full.password().map(decoded));
            if user.get_or_insert_with(|| own.clone()) != &own {
                return Err(
                    "the addresses of NATS name different users: one is used for all of them"
                        .into(),
                );
            }
        }
        let host = match full.host() {
            v6 if v6.contains(':') => format!("[{v6}]"),
            host => host.to_owned(),
        };
        let plain = format!("{}://{host}:{}", full.scheme(), full.port());
        servers.push(plain.parse().map_err(|_| bad())?);
    }
    match servers.is_empty() {
        true => Err("no address of NATS is given".into()),
        false => Ok((servers, user)),
    }
}

/// `%40` is `@`, in the user and password of a URL.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(urls: &[&str]) -> Result<(Vec<String>, Option<User>), String> {
        let urls: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
        let (servers, user) = addresses(&urls)?;
        Ok((
            servers
                .into_iter()
                .map(|server| server.into_inner().to_string())
                .collect(),
            user,
        ))
    }

    #[test]
    fn addresses_lose_their_secrets() {
        let (servers, user) =
            of(&["nats://me:p%40ss@one:4000", "tls://[::1]", "three"]).expect("addresses");
        assert_eq!(
            servers,
            ["nats://one:4000", "tls://[::1]:4222", "nats://three:4222"]
        );
        assert_eq!(user, Some(("me".into(), Some("p@ss".into()))));
        assert_eq!(
            of(&["token@one"]).expect("an address").1,
            Some(("token".into(), None))
        );
    }

    #[test]
    fn a_bad_address_is_not_repeated() {
        for bad in [
            &["http://me:hunter2@one"][..],
            &["nats://me:hunter2@one:port"],
            &["a", "me:hunter2@:1:2"],
            &[],
        ] {
            let said = of(bad).expect_err("no address");
            assert!(!said.contains("hunter2") && said.contains("NATS"), "{said}");
        }
        assert!(of(&["nats://a:b@one", "nats://a:c@two"]).is_err());
    }
}
