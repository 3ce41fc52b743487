//! A tool as an MCP client sees it: under its exposed name, without the properties that credentials fill.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::version::Era;
use crate::core::json_object::{Members, ObjectWriter, push_json_text, text_of};

/// The changes that turn a tool of a server into a tool of an endpoint.
pub struct ToolView<'a> {
    /// The name instead of the server's name for the tool.
    pub name: Option<&'a str>,
    /// The properties that are removed from `inputSchema`.
    pub hidden: &'a [&'a str],
    pub era: Era,
}

impl ToolView<'_> {
    /// Returns the tool as the client sees it. A tool that needs no change keeps its text.
    pub fn apply<'a>(&self, tool: &'a str) -> Cow<'a, str> {
        let Some(members) = Members::parse(tool) else {
            return Cow::Borrowed(tool);
        };
        let mut writer = ObjectWriter::with_capacity(tool.len() + 32);
        let mut is_changed = false;
        for (key, value) in &members.0 {
            match (text_of(key).as_deref(), self.name) {
                (Some("name"), Some(name)) => {
                    is_changed = true;
                    writer.text("name", name);
                }
                (Some("inputSchema"), _) => {
                    let schema = without_properties(value, self.hidden);
                    is_changed |= schema.is_some();
                    writer.member(key, schema.as_deref().unwrap_or(value.get()));
                }
                // One such schema makes the whole list invalid for a legacy client (MCP 2025-11-25, Tool).
                (Some("outputSchema"), _)
                    if self.era == Era::Legacy && !is_object_schema(value) =>
                {
                    is_changed = true;
                }
                _ => writer.member(key, value.get()),
            }
        }
        if is_changed {
            Cow::Owned(writer.finish())
        } else {
            Cow::Borrowed(tool)
        }
    }
}

fn is_object_schema(schema: &RawValue) -> bool {
    Members::parse(schema.get()).is_some_and(|schema| schema.is_text("type", "object"))
}

/// Returns an object schema without these properties, or `None` if it has none of them. A schema without
/// `"type": "object"` and a plain `properties` object stays as it is.
fn without_properties(schema: &RawValue, hidden: &[&str]) -> Option<String> {
    if hidden.is_empty() {
        return None;
    }
    let members =
        Members::parse(schema.get()).filter(|members| members.is_text("type", "object"))?;
    let properties = Members::parse(members.get("properties")?.get())?;
    let is_hidden =
        |name: &RawValue| text_of(name).is_some_and(|name| hidden.contains(&name.as_ref()));
    properties.0.iter().find(|(name, _)| is_hidden(name))?;
    let mut writer = ObjectWriter::with_capacity(schema.get().len());
    for (key, value) in &members.0 {
        match text_of(key).as_deref() {
            Some("properties") => {
                let mut kept = ObjectWriter::with_capacity(value.get().len());
                for (name, property) in properties.0.iter().filter(|(name, _)| !is_hidden(name)) {
                    kept.member(name, property.get());
                }
                writer.member(key, &kept.finish());
            }
            Some("required") => match without_names(value, hidden) {
                Some(required) => writer.member(key, &required),
                None => writer.member(key, value.get()),
            },
            _ => writer.member(key, value.get()),
        }
    }
    Some(writer.finish())
}

/// Returns a list of names without these names, or `None` if the value is no list of names.
fn without_names(list: &RawValue, hidden: &[&str]) -> Option<String> {
    let names: Vec<Cow<'_, str>> = serde_json::from_str(list.get()).ok()?;
    let mut json = String::from("[");
    for name in names.iter().filter(|name| !hidden.contains(&name.as_ref())) {
        if json.len() > 1 {
            json.push(',');
        }
        push_json_text(&mut json, name);
    }
    json.push(']');
    Some(json)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view<'a>(name: Option<&'a str>, hidden: &'a [&'a str], era: Era) -> ToolView<'a> {
        ToolView { name, hidden, era }
    }

    fn parsed(view: &ToolView<'_>, tool: &Value) -> Value {
        serde_json::from_str(&view.apply(&tool.to_string())).expect("JSON")
    }

    #[test]
    fn a_tool_without_a_change_keeps_its_text() {
        let tool =
            r#"{"name" : "a", "inputSchema":{"type":"object","properties":{"x":{}}}, "n":1.0}"#;
        for hidden in [&[][..], &["y"]] {
            let view = view(None, hidden, Era::Modern);
            assert!(matches!(view.apply(tool), Cow::Borrowed(text) if text == tool));
        }
    }

    #[test]
    fn a_hidden_property_leaves_properties_and_required() {
        let tool = json!({ "name": "a", "inputSchema": {
            "type": "object",
            "properties": { "key": { "type": "string" }, "q": { "type": "string" } },
            "required": ["key", "q"],
            "additionalProperties": false,
        }});
        let shown = parsed(&view(Some("s__a"), &["key"], Era::Modern), &tool);
        assert_eq!(shown["name"], "s__a");
        assert_eq!(
            shown["inputSchema"],
            json!({
                "type": "object", "properties": { "q": { "type": "string" } },
                "required": ["q"], "additionalProperties": false,
            })
        );
    }

    #[test]
    fn a_schema_of_another_form_stays() {
        for schema in [
            json!({ "properties": { "key": {} }, "required": ["key"] }),
            json!({ "type": ["object"], "properties": { "key": {} } }),
            json!({ "type": "object", "properties": true }),
            json!(true),
        ] {
            let tool = json!({ "name": "a", "inputSchema": schema });
            assert_eq!(parsed(&view(None, &["key"], Era::Legacy), &tool), tool);
        }
        let odd = json!({ "name": "a", "inputSchema": {
            "type": "object", "properties": { "key": {} }, "required": "key",
        }});
        let shown = parsed(&view(None, &["key"], Era::Legacy), &odd);
        assert_eq!(shown["inputSchema"]["required"], "key");
        assert_eq!(shown["inputSchema"]["properties"], json!({}));
    }

    #[test]
    fn a_legacy_client_sees_output_schemas_of_objects_only() {
        for (schema, is_shown) in [
            (json!({ "type": "object" }), true),
            (json!({ "type": "array" }), false),
            (json!(true), false),
        ] {
            let tool = json!({ "name": "a", "outputSchema": schema });
            let legacy = parsed(&view(None, &[], Era::Legacy), &tool);
            assert_eq!(legacy.get("outputSchema").is_some(), is_shown, "{schema}");
            assert_eq!(parsed(&view(None, &[], Era::Modern), &tool), tool);
        }
    }
}
