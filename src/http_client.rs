//! The HTTP client of the program: pooled connections, TLS, and the proxies that the environment names.
//!
//! TLS trusts the roots of the system and of Mozilla, because a container may have no roots, and a company may have a
//! root that only its machines know (`SSL_CERT_FILE` names it).

use std::error::Error;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;
use hyper::{StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

/// The longest time for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The time until an unused connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

pub type HttpClient<R = GaiResolver> =
    legacy::Client<HttpsConnector<ProxyConnector<R>>, Full<Bytes>>;

/// Returns a client with its own connection pool.
pub fn client() -> HttpClient {
    client_with_resolver(GaiResolver::new())
}

/// Returns a client that connects directly only to the addresses that `resolver` returns. The system
/// resolves the name of a proxy, because the operator names it.
pub fn client_with_resolver<R>(resolver: R) -> HttpClient<R>
where
    HttpsConnector<ProxyConnector<R>>: Connect + Clone,
{
    let direct = with_settings(HttpConnector::new_with_resolver(resolver));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(TLS.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(ProxyConnector {
            direct,
            to_proxy: with_settings(HttpConnector::new()),
        });
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connector)
}

fn with_settings<R>(mut connector: HttpConnector<R>) -> HttpConnector<R> {
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector
}

static TLS: LazyLock<ClientConfig> = LazyLock::new(|| {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a certificate of the system");
    }
    roots.add_parsable_certificates(native.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    versions
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
});

static PROXIES: LazyLock<Matcher> = LazyLock::new(Matcher::from_env);

/// Connects to a host directly or through the tunnel of a proxy.
#[derive(Clone)]
pub struct ProxyConnector<R = GaiResolver> {
    direct: HttpConnector<R>,
    to_proxy: HttpConnector,
}

impl<R> Service<Uri> for ProxyConnector<R>
where
    HttpConnector<R>: Service<Uri, Response = TokioIo<TcpStream>>,
    <HttpConnector<R> as Service<Uri>>::Error: Into<Box<dyn Error + Send + Sync>>,
    <HttpConnector<R> as Service<Uri>>::Future: Send + 'static,
{
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        match PROXIES.intercept(&target).filter(|_| !is_loopback(&target)) {
            None => self
                .direct
                .call(target)
                .map(|connected| connected.map_err(Into::into))
                .boxed(),
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy.clone());
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel
                    .call(with_port(target))
                    .map(|connected| connected.map_err(Into::into))
                    .boxed()
            }
        }
    }
}

/// Returns whether requests to `target` go through a proxy, which then resolves the name of the host.
pub fn uses_proxy(target: &Uri) -> bool {
    !is_loopback(target) && PROXIES.intercept(target).is_some()
}

/// Whether the host is this machine. A proxy would connect to its own loopback address.
fn is_loopback(target: &Uri) -> bool {
    let host = target.host().unwrap_or_default().trim_matches(['[', ']']);
    host.parse()
        .map_or(host == "localhost", |ip: std::net::IpAddr| ip.is_loopback())
}

/// Adds port 80 to an `http` URL without a port, because a tunnel goes to port 443 otherwise.
fn with_port(target: Uri) -> Uri {
    match (target.scheme_str(), target.port(), target.host()) {
        (Some("http"), None, Some(host)) => format!("http://{host}:80/").parse().unwrap_or(target),
        _ => target,
    }
}

/// A response whose body is still being received.
pub struct StreamedResponse(hyper::Response<Incoming>);

impl StreamedResponse {
    pub fn new(response: hyper::Response<Incoming>) -> Self {
        Self(response)
    }

    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// Returns the length of the body in bytes, if the response says it.
    pub fn length(&self) -> Option<u64> {
        self.0.body().size_hint().exact()
    }

    /// Returns the next chunk of the body, or `None` at its end. Dropping the future loses no chunk.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match self.0.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(BodyError(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// The body of a response broke off. The text is the innermost cause.
#[derive(Debug)]
pub struct BodyError(hyper::Error);

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&describe(&self.0))
    }
}

impl Error for BodyError {}

/// Returns the innermost cause of an error, because the outer errors only name the step that failed.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
