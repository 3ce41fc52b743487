//! The URL and the token of the API that the commands talk to.

use super::access::ADMIN_TOKEN;
use super::env::{BadConfig, Env, Variable};

const MCP_API_URL: Variable = Variable {
    name: "MCP_API_URL",
    default: "http://127.0.0.1:8080",
    about: "The API that the commands talk to, except serve, demo, backup and restore.",
};
const MCP_API_TOKEN: Variable = Variable {
    name: "MCP_API_TOKEN",
    default: "",
    about: "The token that the commands send to the API, such as a token of a user. Without it, ADMIN_TOKEN.",
};

pub(super) const VARIABLES: &[&Variable] = &[&MCP_API_URL, &MCP_API_TOKEN];

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
            token: env.text(&MCP_API_TOKEN).or_else(|| env.text(&ADMIN_TOKEN)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_the_commands_comes_before_the_token_of_the_administrator() {
        let token = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            let config = ClientConfig::read(&Env::from_pairs(pairs));
            config.expect("a configuration").token
        };
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("ADMIN_TOKEN", "a")]).as_deref(), Some("a"));
        let both = [("ADMIN_TOKEN", "a"), ("MCP_API_TOKEN", "m")];
        assert_eq!(token(&both).as_deref(), Some("m"));
    }
}
