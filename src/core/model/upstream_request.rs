//! Requests of a user to an MCP server that are no tool calls: prompts, resources and completion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::core::names::{ServerName, UserName};

/// The methods that an MCP client reaches at a server, apart from the tools (MCP 2026-07-28, Server Features).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestMethod {
    #[serde(rename = "prompts/list")]
    ListPrompts,
    #[serde(rename = "prompts/get")]
    GetPrompt,
    #[serde(rename = "resources/list")]
    ListResources,
    #[serde(rename = "resources/templates/list")]
    ListResourceTemplates,
    #[serde(rename = "resources/read")]
    ReadResource,
    #[serde(rename = "completion/complete")]
    Complete,
}

impl RequestMethod {
    pub const ALL: [Self; 6] = [
        Self::ListPrompts,
        Self::GetPrompt,
        Self::ListResources,
        Self::ListResourceTemplates,
        Self::ReadResource,
        Self::Complete,
    ];

    /// Returns the method with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }

    /// Returns the name of the method in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ListPrompts => "prompts/list",
            Self::GetPrompt => "prompts/get",
            Self::ListResources => "resources/list",
            Self::ListResourceTemplates => "resources/templates/list",
            Self::ReadResource => "resources/read",
            Self::Complete => "completion/complete",
        }
    }

    /// Returns the capability that a server with this method declares.
    pub fn capability(self) -> &'static str {
        match self {
            Self::ListPrompts | Self::GetPrompt => "prompts",
            Self::ListResources | Self::ListResourceTemplates | Self::ReadResource => "resources",
            Self::Complete => "completions",
        }
    }

    /// Returns whether a result says how long a client may keep it (SEP-2549).
    pub fn has_cache_hints(self) -> bool {
        !matches!(self, Self::GetPrompt | Self::Complete)
    }

    /// Returns the parameter that the header `Mcp-Name` repeats (SEP-2243).
    pub fn named_parameter(self) -> Option<&'static str> {
        match self {
            Self::GetPrompt => Some("name"),
            Self::ReadResource => Some("uri"),
            _ => None,
        }
    }
}

/// Sends a request of a user to a server, with the user's credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendRequest {
    pub user: UserName,
    pub server: ServerName,
    pub method: RequestMethod,
    /// The `params` of the request without `_meta`: an object.
    pub params: Box<RawValue>,
}

impl PartialEq for SendRequest {
    fn eq(&self, other: &Self) -> bool {
        let parts = |request: &Self| (request.user.clone(), request.server.clone(), request.method);
        parts(self) == parts(other) && self.params.get() == other.params.get()
    }
}

impl JsonSchema for SendRequest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SendRequest".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let user = generator.subschema_for::<UserName>();
        let server = generator.subschema_for::<ServerName>();
        let method = generator.subschema_for::<RequestMethod>();
        schemars::json_schema!({
            "type": "object",
            "description": "Sends a request of a user to a server, with the user's credentials.",
            "properties": {
                "user": user,
                "server": server,
                "method": method,
                "params": { "type": "object", "description": "The `params` of the request without `_meta`." },
            },
            "required": ["user", "server", "method", "params"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_one_spelling() {
        for method in RequestMethod::ALL {
            let json = serde_json::to_string(&method).expect("JSON");
            assert_eq!(json, format!("\"{}\"", method.as_str()));
            assert_eq!(RequestMethod::parse(method.as_str()), Some(method));
        }
        assert_eq!(RequestMethod::parse("tools/call"), None);
    }
}
