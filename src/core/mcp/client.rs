//! The MCP client that waits for the result of a request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::capabilities::ClientCapabilities;
use super::version::Era;

/// The facts about the waiting MCP client that a worker needs. A facade sends them with requests of MCP clients, not with
/// REST calls and jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpClient {
    pub era: Era,
    /// The capabilities with which a server can ask the client for something, as bits.
    #[serde(default)]
    pub capabilities: ClientCapabilities,
    /// The client wants the progress notifications of the server.
    #[serde(default)]
    pub progress: bool,
}

impl McpClient {
    /// Returns the capabilities of a client that answers requests on the stream of its call.
    pub fn answering(self) -> Option<ClientCapabilities> {
        (self.era == Era::Legacy && !self.capabilities.is_empty()).then_some(self.capabilities)
    }
}
