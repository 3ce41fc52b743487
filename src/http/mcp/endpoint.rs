//! The two kinds of endpoints, and the context of one request.

use std::sync::Arc;

use axum::http::HeaderValue;
use serde_json::json;
use serde_json::value::RawValue;

use super::accept::Accepted;
use super::error::RpcError;
use super::watched::reports_updates;
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::decide::access::{Action, may};
use crate::core::ids::{Digest, ServerId};
use crate::core::json_object::{Members, ObjectWriter, text_of};
use crate::core::model::caller::Caller;
use crate::core::model::description::{RawObject, ServerDescription};
use crate::core::names::{ServerName, UserName};
use crate::http::state::ApiState;
use crate::ports::bus::Hint;

/// The longest `instructions` of the endpoint of all servers, in bytes.
const MAX_INSTRUCTIONS: usize = 2048;

/// An MCP endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/mcp`: all servers that the caller may use.
    All,
    /// `/mcp/servers/{name}/mcp`: one server, with its own names.
    Server(ServerName),
}

impl Endpoint {
    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Returns the path, to which session ids are bound.
    pub(super) fn route(&self) -> String {
        match self {
            Self::All => "/mcp".to_owned(),
            Self::Server(name) => format!("/mcp/servers/{name}/mcp"),
        }
    }

    /// Returns the value of the label `endpoint` in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Server(_) => "server",
        }
    }
}

/// The parts of one HTTP request that its messages share.
pub(super) struct Exchange {
    pub state: Arc<ApiState>,
    pub caller: Arc<Caller>,
    /// The user that the request acts for.
    pub user: UserName,
    pub endpoint: Endpoint,
    pub accepted: Accepted,
    pub host: Option<HeaderValue>,
    pub traceparent: Option<Arc<str>>,
}

impl Exchange {
    /// Returns whether a list of the caller shows a server. A call of the same server then finds it.
    pub(super) fn may_use(&self, catalog: &Catalog, server: ServerId) -> bool {
        catalog
            .server_by_id(server)
            .is_some_and(|server| self.may_use_server(server))
    }

    fn may_use_server(&self, server: &Server) -> bool {
        server.enabled && may(&self.caller, Action::UseTools, Some(server.id)).is_ok()
    }

    /// Ends what waits under a key, here or at another facade.
    pub(super) fn cancel_call(&self, key: Digest) {
        if !self.state.mcp().running.cancel(key) {
            self.state.publish(Hint::McpCallCancelled(key));
        }
    }

    /// Returns the enabled servers of the endpoint that the caller may use, in the order of their names.
    pub(super) fn visible_servers(&self, catalog: &Catalog) -> Vec<Arc<Server>> {
        let servers = match &self.endpoint {
            Endpoint::All => catalog.servers(),
            Endpoint::Server(name) => catalog.server(name.as_str()).into_iter().collect(),
        };
        servers
            .into_iter()
            .filter(|server| self.may_use_server(server))
            .cloned()
            .collect()
    }

    /// Returns the server of the endpoint, which is enabled and which the caller may use. Returns `None` at the endpoint of
    /// all servers.
    ///
    /// # Errors
    /// -32602 with status 404, in one form for an unknown, a disabled and a forbidden server.
    pub(super) fn find_server(&self) -> Result<Option<Arc<Server>>, RpcError> {
        let Endpoint::Server(name) = &self.endpoint else {
            return Ok(None);
        };
        let catalog = self.state.catalog();
        match catalog.server(name.as_str()) {
            Some(server) if self.may_use_server(server) => Ok(Some(server.clone())),
            _ => Err(RpcError::not_found(format!(
                "Server {name} not found, or it is disabled"
            ))),
        }
    }

    /// Returns the JSON object `serverInfo`: what the server of the endpoint said of itself, or this program.
    pub(super) fn server_info(&self) -> String {
        let own = |name: &str| json!({ "name": name, "version": env!("CARGO_PKG_VERSION") });
        let Endpoint::Server(name) = &self.endpoint else {
            return own("mcp-api").to_string();
        };
        self.description()
            .and_then(|description| {
                description
                    .server_info
                    .as_ref()
                    .map(RawObject::raw)
                    .and_then(implementation)
            })
            .unwrap_or_else(|| own(name.as_str()).to_string())
    }

    /// Returns what the server of the endpoint said of itself in its last handshake.
    fn description(&self) -> Option<Arc<ServerDescription>> {
        let Endpoint::Server(name) = &self.endpoint else {
            return None;
        };
        let catalog = self.state.catalog();
        catalog.server(name.as_str())?.description.clone()
    }

    /// Returns the servers of the endpoint that have declared a capability in their last handshakes, in the order of their
    /// names.
    pub(super) fn servers_with(&self, capability: &str) -> Vec<Arc<Server>> {
        let mut servers = self.visible_servers(&self.state.catalog());
        servers.retain(|server| {
            let description = server.description.as_ref();
            description.is_some_and(|description| description.declares(capability))
        });
        servers
    }

    /// Returns the JSON object `capabilities`: the tools, and what a server of the endpoint declares besides.
    pub(super) fn capabilities(&self) -> String {
        let mut writer = ObjectWriter::with_capacity(128);
        for (capability, features) in [
            ("completions", "{}"),
            ("prompts", r#"{"listChanged":true}"#),
        ] {
            if !self.servers_with(capability).is_empty() {
                writer.raw(capability, features);
            }
        }
        let with_resources = self.servers_with("resources");
        if with_resources.iter().any(|server| reports_updates(server)) {
            writer.raw("resources", r#"{"subscribe":true,"listChanged":true}"#);
        } else if !with_resources.is_empty() {
            writer.raw("resources", r#"{"listChanged":true}"#);
        }
        writer.raw("logging", "{}");
        writer.raw("tools", r#"{"listChanged":true}"#);
        writer.finish()
    }

    /// Returns the text `instructions`: that of the server, or a list of all servers.
    pub(super) fn instructions(&self) -> Option<String> {
        if !self.endpoint.is_all() {
            return self.description()?.instructions.clone();
        }
        let servers = self.visible_servers(&self.state.catalog());
        let mut text = String::from(
            "Tools of several MCP servers. The name of a tool begins with its server: <server>__<tool>. The servers:",
        );
        for server in servers {
            let line = format!("\n- {}", server.name);
            if text.len() + line.len() > MAX_INSTRUCTIONS {
                break;
            }
            text.push_str(&line);
        }
        Some(text)
    }
}

/// Returns the JSON of a `serverInfo` with the members that MCP requires.
fn implementation(server_info: &RawValue) -> Option<String> {
    let members = Members::parse(server_info.get())?;
    let has_text = |name: &str| members.get(name).and_then(text_of).is_some();
    (has_text("name") && has_text("version")).then(|| server_info.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_info_has_a_name_and_a_version() {
        let found = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).expect("JSON");
            implementation(&raw).is_some()
        };
        assert!(found(r#"{"name":"a","version":"1","title":"A"}"#));
        assert!(!found(r#"{"name":"a"}"#) && !found(r#"{"name":1,"version":"1"}"#));
    }
}
