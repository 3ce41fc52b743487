//! Where the program listens and under which address it is known.

use std::net::{IpAddr, ToSocketAddrs};

use axum::http::Uri;

use super::env::{BadConfig, Env, Variable};

const HOST: Variable = Variable {
    name: "HOST",
    default: "127.0.0.1",
    about: "The address to listen on; 0.0.0.0 is every one and needs ADMIN_TOKEN.",
};
const PORT: Variable = Variable { name: "PORT", default: "8080", about: "The port to listen on; 0 picks a free one." };
const PUBLIC_URL: Variable = Variable {
    name: "PUBLIC_URL",
    default: "",
    about: "The URL under which users reach this API, if it stands behind a proxy.",
};

pub const VARIABLES: &[&Variable] = &[&HOST, &PORT, &PUBLIC_URL];

#[derive(Debug, Clone)]
pub struct Listen {
    /// As it was given, for the check of `Host` headers.
    pub host: String,
    pub address: IpAddr,
    pub port: u16,
    /// The host of `PUBLIC_URL`.
    pub public_host: Option<String>,
}

impl Listen {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let host: String = env.parse(&HOST, "an address")?;
        let address = (host.as_str(), 0).to_socket_addrs().ok().and_then(|mut found| found.next());
        let address = address
            .ok_or_else(|| BadConfig::new(HOST.name, "must be an address of this machine, such as 127.0.0.1"))?;
        let public_host = match env.text(&PUBLIC_URL) {
            Some(url) => Some(public_host(&url)?),
            None => None,
        };
        Ok(Self { host, address: address.ip(), port: env.parse(&PORT, "a port number")?, public_host })
    }
}

fn public_host(url: &str) -> Result<String, BadConfig> {
    let wrong = || BadConfig::new(PUBLIC_URL.name, "must be a URL such as https://mcp.example.com");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    uri.host().filter(|_| web).map(str::to_ascii_lowercase).ok_or_else(wrong)
}
