//! The address on which the program listens, and the URL that users know.

use std::net::{IpAddr, ToSocketAddrs};

use axum::http::Uri;

use super::env::{BadConfig, Env, Variable};

const HOST: Variable = Variable {
    name: "HOST",
    default: "127.0.0.1",
    about: "The address to listen on. 0.0.0.0 means all addresses and needs ADMIN_TOKEN or OIDC_ISSUER.",
};
const PORT: Variable = Variable {
    name: "PORT",
    default: "8080",
    about: "The port to listen on. 0 selects a free port.",
};
const MAX_CONNECTIONS: Variable = Variable {
    name: "MAX_CONNECTIONS",
    default: "10000",
    about: "The most open HTTP connections; at most half of the limit of open files. A new one replaces the oldest one without a request.",
};
const PUBLIC_URL: Variable = Variable {
    name: "PUBLIC_URL",
    default: "",
    about: "The URL under which users reach this API through a proxy. Cookies are Secure if it is https.",
};

pub(super) const VARIABLES: &[&Variable] = &[&HOST, &PORT, &MAX_CONNECTIONS, &PUBLIC_URL];

#[derive(Debug, Clone)]
pub struct Listen {
    /// `HOST` unchanged, for the check of `Host` headers.
    pub host: String,
    pub address: IpAddr,
    pub port: u16,
    /// The most open HTTP connections.
    pub max_connections: usize,
    pub public: Option<PublicUrl>,
}

/// `PUBLIC_URL`, the URL that browsers use.
#[derive(Debug, Clone)]
pub struct PublicUrl {
    /// The URL without a slash at its end.
    pub url: String,
    /// The host in lower case.
    pub host: String,
    /// The path before the paths of the API: empty, or `/` and more.
    pub path: String,
    /// Whether the URL is https.
    pub secure: bool,
}

impl Listen {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let host: String = env.parse(&HOST, "an address")?;
        let address = (host.as_str(), 0)
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next());
        let address = address.ok_or_else(|| {
            BadConfig::new(
                HOST.name,
                "must be an address of this machine, such as 127.0.0.1",
            )
        })?;
        let public = match env.text(&PUBLIC_URL) {
            Some(url) => Some(PublicUrl::parse(&url)?),
            None => None,
        };
        Ok(Self {
            host,
            address: address.ip(),
            port: env.parse(&PORT, "a port number")?,
            max_connections: env.number(&MAX_CONNECTIONS, 16..=1_000_000)?,
            public,
        })
    }
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, BadConfig> {
        let wrong = || {
            BadConfig::new(
                PUBLIC_URL.name,
                "must be a URL such as https://mcp.example.com, without a query",
            )
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri
            .authority()
            .filter(|_| uri.query().is_none())
            .ok_or_else(wrong)?;
        let path = uri.path().trim_end_matches('/').to_owned();
        let scheme = if secure { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{authority}{path}"),
            host: authority.host().to_ascii_lowercase(),
            path,
            secure,
        })
    }
}
