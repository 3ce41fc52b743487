//! Arguments that a call repeats in headers (`x-mcp-header`, MCP 2026-07-28). A server without sessions refuses a call
//! that lacks such a header.

use std::collections::HashMap;

use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::protocol::encode_header;
use crate::core::model::tool::Tools;

const ANNOTATION: &str = "x-mcp-header";

/// The headers of each tool.
#[derive(Default)]
pub struct ParamHeaders(HashMap<String, Vec<ParamHeader>>);

/// A header that repeats one argument.
struct ParamHeader {
    /// The keys that lead to the argument.
    path: Vec<String>,
    header: HeaderName,
}

impl ParamHeaders {
    pub fn from_tools(tools: &Tools) -> Self {
        let is_annotated =
            |raw: &str| memchr::memmem::find(raw.as_bytes(), ANNOTATION.as_bytes()).is_some();
        let tools = tools
            .tools
            .iter()
            .filter(|tool| is_annotated(tool.raw().get()))
            .filter_map(|tool| {
                let schema: Value = serde_json::from_str(tool.raw().get()).ok()?;
                let mut headers = Vec::new();
                collect(&schema["inputSchema"], &mut Vec::new(), &mut headers);
                (!headers.is_empty()).then_some((tool.name()?, headers))
            });
        Self(tools.collect())
    }

    /// Returns the headers of a call. The message is parsed only for a tool that has such headers, which is rare.
    pub fn headers(&self, tool: &str, message: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        let Some(param_headers) = self.0.get(tool) else {
            return vec![];
        };
        let Ok(message) = serde_json::from_slice::<Value>(message) else {
            return vec![];
        };
        let arguments = &message["params"]["arguments"];
        let header = |param: &ParamHeader| {
            let text = match param
                .path
                .iter()
                .fold(arguments, |value, key| &value[key.as_str()])
            {
                Value::String(text) => text.clone(),
                Value::Bool(value) => value.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            let mut value = encode_header(&text)?;
            value.set_sensitive(true);
            Some((param.header.clone(), value))
        };
        param_headers.iter().filter_map(header).collect()
    }
}

/// Collects the annotated properties. An annotation below `items` or another keyword does not count.
fn collect(schema: &Value, path: &mut Vec<String>, headers: &mut Vec<ParamHeader>) {
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        path.push(key.clone());
        let header = schema[ANNOTATION]
            .as_str()
            .and_then(|name| format!("mcp-param-{name}").parse().ok());
        if let Some(header) = header {
            headers.push(ParamHeader {
                path: path.clone(),
                header,
            });
        }
        collect(schema, path, headers);
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
        let param_headers = ParamHeaders::from_tools(&Tools::new(vec![raw.into()]));
        let message = json!({ "params": { "arguments": { "region": "zürich", "in": { "n": 3 }, "list": ["x"] } } });
        let mut headers = param_headers.headers("t", message.to_string().as_bytes());
        headers.sort_by_key(|(name, _)| name.as_str().to_owned());
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
        assert!(param_headers.headers("other", b"{}").is_empty());
    }
}
