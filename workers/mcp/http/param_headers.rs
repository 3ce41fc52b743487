//! Arguments that a tool wants to see among the headers, too (`x-mcp-header`, 2026-07-28): a server without sessions
//! refuses a call that lacks them.

use std::collections::HashMap;

use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::protocol::encoded;
use crate::core::model::tool::Tools;

const ANNOTATION: &str = "x-mcp-header";

/// By tool: where in its arguments a value is, and the header it goes into.
#[derive(Default)]
pub struct ParamHeaders(HashMap<String, Vec<(Vec<String>, HeaderName)>>);

impl ParamHeaders {
    pub fn of(tools: &Tools) -> Self {
        let annotated =
            |raw: &str| memchr::memmem::find(raw.as_bytes(), ANNOTATION.as_bytes()).is_some();
        let tools = tools
            .tools
            .iter()
            .filter(|tool| annotated(tool.raw().get()))
            .filter_map(|tool| {
                let schema: Value = serde_json::from_str(tool.raw().get()).ok()?;
                let mut found = Vec::new();
                collect(&schema["inputSchema"], &mut Vec::new(), &mut found);
                (!found.is_empty()).then_some((tool.name()?, found))
            });
        Self(tools.collect())
    }

    /// The headers of a call, which is read again for them: hardly any tool wants them.
    pub fn headers(&self, tool: &str, message: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        let Some(wanted) = self.0.get(tool) else {
            return vec![];
        };
        let Ok(message) = serde_json::from_slice::<Value>(message) else {
            return vec![];
        };
        let arguments = &message["params"]["arguments"];
        let header = |(path, name): &(Vec<String>, HeaderName)| {
            let text = match path
                .iter()
                .fold(arguments, |value, key| &value[key.as_str()])
            {
                Value::String(text) => text.clone(),
                Value::Bool(yes) => yes.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            let mut value = encoded(&text)?;
            value.set_sensitive(true);
            Some((name.clone(), value))
        };
        wanted.iter().filter_map(header).collect()
    }
}

/// Annotations count where only `properties` lead to them.
fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, HeaderName)>) {
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        path.push(key.clone());
        let name = schema[ANNOTATION]
            .as_str()
            .and_then(|name| format!("mcp-param-{name}").parse().ok());
        found.extend(name.map(|name| (path.clone(), name)));
        collect(schema, path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn annotated_arguments_become_headers() {
        let tool = json!({ "name": "t", "inputSchema": { "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "in": { "properties": { "n": { "type": "integer", "x-mcp-header": "Count" } } },
            "list": { "items": { "x-mcp-header": "Never" } },
        } } });
        let raw = serde_json::value::to_raw_value(&tool).expect("JSON");
        let mirrored = ParamHeaders::of(&Tools::new(vec![raw.into()]));
        let message = json!({ "params": { "arguments": { "region": "zürich", "in": { "n": 3 }, "list": ["x"] } } });
        let mut headers = mirrored.headers("t", message.to_string().as_bytes());
        headers.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        let shown: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        assert_eq!(
            shown,
            [
                ("mcp-param-count", "3"),
                ("mcp-param-region", "=?base64?esO8cmljaA==?=")
            ]
        );
        assert!(mirrored.headers("other", b"{}").is_empty());
    }
}
