//! The OAuth client of this deployment at Google.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::env::{BadConfig, Env, Variable};

const GOOGLE_OAUTH_CREDENTIALS: Variable = Variable {
    name: "GOOGLE_OAUTH_CREDENTIALS",
    default: "",
    about: "The JSON of an OAuth client from Google's console, in one line. Servers with MCP_AUTH_TYPE=OAUTH2_GOOGLE get it.",
};

pub(super) const VARIABLES: &[&Variable] = &[&GOOGLE_OAUTH_CREDENTIALS];

#[derive(Default)]
pub struct Google {
    /// A JSON object, unchanged.
    pub credentials: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Google {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Google")
            .field("credentials", &self.credentials.as_ref().map(|_| "***"))
            .finish()
    }
}

impl Google {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let credentials = env.text(&GOOGLE_OAUTH_CREDENTIALS).map(Zeroizing::new);
        if let Some(text) = &credentials {
            let is_client = |client: &Value| client["client_id"].is_string();
            let client = serde_json::from_str::<Map<String, Value>>(text).ok();
            // Google names the object `web` or `installed`, by the kind of the client.
            let is_known = client.is_some_and(|object| {
                ["web", "installed"]
                    .iter()
                    .any(|kind| object.get(*kind).is_some_and(is_client))
            });
            if !is_known {
                let why = "must be the JSON of an OAuth client from Google's console, {\"web\":{\"client_id\":…}}; in .env, put the value in 'single quotes'";
                return Err(BadConfig::new(GOOGLE_OAUTH_CREDENTIALS.name, why));
            }
        }
        Ok(Self { credentials })
    }
}
