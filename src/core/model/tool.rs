//! Tools as their servers describe them.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// One tool in the spelling of its server: a JSON object with at least a `name`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tool(Arc<RawValue>);

impl Tool {
    pub fn raw(&self) -> &RawValue {
        &self.0
    }

    /// Returns true if the tool declares that a second call does no harm (MCP 2025-11-25, tool annotations). `null`
    /// means that the tool declares nothing.
    pub fn may_repeat(&self) -> bool {
        #[derive(Deserialize)]
        struct Declaration {
            annotations: Option<Hints>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Hints {
            read_only_hint: Option<bool>,
            idempotent_hint: Option<bool>,
        }
        let Ok(declaration) = serde_json::from_str::<Declaration>(self.0.get()) else {
            return false;
        };
        declaration.annotations.is_some_and(|hints| {
            hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true)
        })
    }

    /// Returns the name of the tool, if it has one.
    pub fn name(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct NameField {
            name: String,
        }
        serde_json::from_str::<NameField>(self.0.get())
            .ok()
            .map(|tool| tool.name)
    }
}

impl From<Box<RawValue>> for Tool {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }
}

impl PartialEq for Tool {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl JsonSchema for Tool {
    fn schema_name() -> Cow<'static, str> {
        "Tool".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "A tool as tools/list returns it (Model Context Protocol, Tool).",
            "properties": { "name": { "type": "string" } },
            "required": ["name"]
        })
    }
}

/// The tools of one server in the order of the server, and a digest that does not depend on the order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tools {
    pub digest: String,
    pub tools: Arc<Vec<Tool>>,
}

impl Tools {
    /// Computes the digest of the tools.
    pub fn new(tools: Vec<Tool>) -> Self {
        let mut texts: Vec<&str> = tools.iter().map(|tool| tool.raw().get()).collect();
        texts.sort_unstable();
        let mut hash = Sha256::new();
        for text in texts {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        Self {
            digest: hex::encode(hash.finalize()),
            tools: tools.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_ignores_the_order() {
        let tool = |text: &str| Tool::from(RawValue::from_string(text.into()).expect("JSON"));
        let (a, b) = (tool(r#"{"name":"a"}"#), tool(r#"{"name":"b"}"#));
        assert_eq!(
            Tools::new(vec![a.clone(), b.clone()]).digest,
            Tools::new(vec![b.clone(), a]).digest
        );
        assert_ne!(Tools::new(vec![b]).digest, Tools::new(vec![]).digest);
    }

    #[test]
    fn a_tool_may_repeat_if_it_declares_so() {
        let may_repeat =
            |text: &str| Tool::from(RawValue::from_string(text.into()).expect("JSON")).may_repeat();
        for yes in [
            r#"{"name":"a","annotations":{"readOnlyHint":true}}"#,
            r#"{"name":"a","annotations":{"idempotentHint":true,"readOnlyHint":null}}"#,
        ] {
            assert!(may_repeat(yes), "{yes}");
        }
        for no in [
            r#"{"name":"a"}"#,
            r#"{"name":"a","annotations":null}"#,
            r#"{"name":"a","annotations":{"readOnlyHint":false}}"#,
            r#"{"name":"a","annotations":{"readOnlyHint":"yes"}}"#,
            r#"{"name":"a","annotations":{"readOnlyHint":null,"destructiveHint":false}}"#,
        ] {
            assert!(!may_repeat(no), "{no}");
        }
    }
}
