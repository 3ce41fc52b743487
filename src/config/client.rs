//! The URL and the token of the API that the commands talk to.

use super::access::ADMIN_TOKEN;
use super::env::{BadConfig, Env, Variable};

const MCP_API_URL: Variable = Variable {
    name: "MCP_API_URL",
    default: "http://127.0.0.1:8080",
    about: "The API that the commands call, servers, install, rotate-keys, dead and import talk to.",
};

pub const VARIABLES: &[&Variable] = &[&MCP_API_URL];

#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub url: String,
    pub token: Option<String>,
}

impl ClientConfig {
    /// The URL of the API without configuration.
    pub const DEFAULT_URL: &str = MCP_API_URL.default;

    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        Ok(Self {
            url: env.parse(&MCP_API_URL, "a URL")?,
            token: env.text(&ADMIN_TOKEN),
        })
    }
}
