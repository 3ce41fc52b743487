//! Connections to servers behind URLs: pooled, with TLS, through a proxy where the environment names one.
//!
//! TLS trusts the roots of the system and those of Mozilla: a container may have none of its own, a company one that
//! only its machines know (`SSL_CERT_FILE` names it). It is what the clients of NATS and MongoDB do between them.

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

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(90);

pub type HttpClient<R = GaiResolver> =
    legacy::Client<HttpsConnector<ProxyConnector<R>>, Full<Bytes>>;

/// A client with connections of its own.
pub fn client() -> HttpClient {
    client_with_resolver(GaiResolver::new())
}

/// Returns a client that connects directly only to the addresses that `resolver` returns. A proxy is
/// found with the resolver of the system, because the operator names it.
pub fn client_with_resolver<R>(resolver: R) -> HttpClient<R>
where
    HttpsConnector<ProxyConnector<R>>: Connect + Clone,
{
    let direct = connector_settings(HttpConnector::new_with_resolver(resolver));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(TLS.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(ProxyConnector {
            direct,
            to_proxy: connector_settings(HttpConnector::new()),
        });
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector)
}

fn connector_settings<R>(mut connector: HttpConnector<R>) -> HttpConnector<R> {
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector
}

static TLS: LazyLock<ClientConfig> = LazyLock::new(|| {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "certificates of the system could not be read");
    }
    roots.add_parsable_certificates(native.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // The provider knows every version that is the default: nothing at run time can change that.
    versions
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
});

static PROXIES: LazyLock<Matcher> = LazyLock::new(Matcher::from_env);

/// The way to a host: its own address, or a tunnel through a proxy.
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

    fn call(&mut self, to: Uri) -> Self::Future {
        match PROXIES.intercept(&to).filter(|_| !is_near(&to)) {
            None => self
                .direct
                .call(to)
                .map(|connected| connected.map_err(Into::into))
                .boxed(),
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy.clone());
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                // A tunnel is for TLS; without a port it would go to 443.
                let to = with_port(to);
                tunnel
                    .call(to)
                    .map(|connected| connected.map_err(Into::into))
                    .boxed()
            }
        }
    }
}

/// Returns whether requests to `to` go through a proxy, which then resolves the name of the host.
pub fn uses_proxy(to: &Uri) -> bool {
    !is_near(to) && PROXIES.intercept(to).is_some()
}

/// A proxy's loopback is not ours: what listens on this machine is spoken to directly.
fn is_near(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
    host.parse()
        .map_or(host == "localhost", |ip: std::net::IpAddr| ip.is_loopback())
}

fn with_port(to: Uri) -> Uri {
    match (to.scheme_str(), to.port(), to.host()) {
        (Some("http"), None, Some(host)) => format!("http://{host}:80/").parse().unwrap_or(to),
        _ => to,
    }
}

/// What a server answered; its body is still on its way.
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

    /// Bytes of the body, as far as that is known.
    pub fn length(&self) -> Option<u64> {
        self.0.body().size_hint().exact()
    }

    /// The next piece of the body. Dropped while it waits, it loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.0.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(describe(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// The innermost reason of an error: those around it say what was being done.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
