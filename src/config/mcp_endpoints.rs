//! The MCP endpoints: the length of exposed names and the bounds of open streams.

use super::env::{BadConfig, Env, Variable};

const MCP_NAME_LIMIT: Variable = Variable {
    name: "MCP_NAME_LIMIT",
    default: "56",
    about: "The longest tool name that the MCP endpoint of all servers shows, from 32 to 128.",
};
const MCP_MAX_STREAMS: Variable = Variable {
    name: "MCP_MAX_STREAMS",
    default: "10000",
    about: "Open event streams of MCP clients.",
};
const MCP_MAX_STREAMS_PER_USER: Variable = Variable {
    name: "MCP_MAX_STREAMS_PER_USER",
    default: "256",
    about: "Open event streams of the MCP clients of one user.",
};

pub(super) const VARIABLES: &[&Variable] =
    &[&MCP_NAME_LIMIT, &MCP_MAX_STREAMS, &MCP_MAX_STREAMS_PER_USER];

#[derive(Debug, Clone)]
pub struct McpEndpoints {
    /// The longest exposed name of a tool, in characters.
    pub name_limit: usize,
    pub max_streams: usize,
    pub max_streams_per_user: usize,
}

impl McpEndpoints {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        Ok(Self {
            name_limit: env.number(&MCP_NAME_LIMIT, 32..=128)?,
            max_streams: env.number(&MCP_MAX_STREAMS, 1..=1_000_000)?,
            max_streams_per_user: env.number(&MCP_MAX_STREAMS_PER_USER, 1..=1_000_000)?,
        })
    }
}
