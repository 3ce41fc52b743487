//!

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// One tool as its server described it: a JSON object with at least a `name`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tool(Arc<RawValue>);

impl Tool {
    pub fn raw(&self) -> &RawValue {
        &self.0
    }

    /// Whether it declares that calling it twice is as good as calling it once (MCP 2025-11-25, tool
    /// annotations).
    pub fn may_repeat(&self) -> bool {
        #[derive(Deserialize)]
        struct Declared {
            #[serde(default)]
            annotations: Hints,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase")]
        struct Hints {
            #[serde(default)]
            read_only_hint: bool,
            #[serde(default)]
            idempotent_hint: bool,
        }
        let declared = serde_json::from_str::<Declared>(self.0.get());
        declared
            .is_ok_and(|tool| tool.annotations.read_only_hint || tool.annotations.idempotent_hint)
    }

    pub fn name(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        serde_json::from_str::<Named>(self.0.get())
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
            "description": "A tool as tools/list gave it (Model Context Protocol, Tool).",
            "properties": { "name": { "type": "string" } },
            "required": ["name"]
        })
    }
}

/// The tools of one server in the order it gave them, and a digest that the order does not change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tools {
    pub digest: String,
    pub tools: Arc<Vec<Tool>>,
}

impl Tools {
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
}
