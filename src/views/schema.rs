//! The OpenAPI schemas of core types. Core does not know OpenAPI, so each schema comes from the JSON Schema of the type.

use std::borrow::Cow;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::core::command::{CompactionReport, KeyUsage, RotationReport};
use crate::core::failure::Code;
use crate::core::model::credential::{Credential, CredentialLocation, CredentialOwner};
use crate::core::model::dead_letter::DeadLetter;
use crate::core::model::job::{JobProgress, JobState};
use crate::core::model::remote::ReconnectionOptions;
use crate::core::model::server::{ConnectionStatus, Interaction, LogLine, Replicas};

macro_rules! openapi_schemas {
    ($($name:ident),+ $(,)?) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    convert::<$name>()
                }
            }
            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    stringify!($name).into()
                }
            }
        )+
    };
}

openapi_schemas!(
    Code,
    CompactionReport,
    ConnectionStatus,
    Credential,
    CredentialOwner,
    CredentialLocation,
    DeadLetter,
    Interaction,
    JobProgress,
    JobState,
    KeyUsage,
    LogLine,
    ReconnectionOptions,
    Replicas,
    RotationReport,
);

/// Converts the JSON Schema of a type. A type whose schema OpenAPI cannot express gets an object without fields, and the
/// unit test below fails.
fn convert<T: JsonSchema>() -> RefOr<Schema> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let schema = openapi_form(schema.to_value());
    serde_json::from_value(schema).unwrap_or_else(|_| RefOr::T(Schema::default()))
}

/// Removes the keywords that only a JSON Schema document has, and joins the variants of an enum into one list.
fn openapi_form(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    schema.remove("$schema");
    schema.remove("title");
    schema.remove("$defs");
    if let Some(names) = schema.get("oneOf").and_then(variant_names) {
        schema.remove("oneOf");
        schema.insert("type".into(), "string".into());
        schema.insert("enum".into(), names.into());
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            set_integer_format(property);
            *property = openapi_form(property.take());
        }
    }
    Value::Object(schema)
}

/// Returns the names of an enum that has only variants without data.
fn variant_names(one_of: &Value) -> Option<Vec<Value>> {
    let mut names = Vec::new();
    for variant in one_of.as_array()? {
        match (variant.get("const"), variant.get("enum")) {
            (Some(name), _) => names.push(name.clone()),
            (None, Some(Value::Array(list))) => names.extend(list.iter().cloned()),
            _ => return None,
        }
    }
    Some(names)
}

/// Replaces the integer formats of Rust by the formats that OpenAPI defines.
fn set_integer_format(property: &mut Value) {
    let format = match property.get("format").and_then(Value::as_str) {
        Some("uint64") => "int64",
        Some("uint32") => "int32",
        _ => return,
    };
    if let Some(property) = property.as_object_mut() {
        let property: &mut Map<String, Value> = property;
        property.insert("format".into(), format.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema<T: ToSchema>() -> Value {
        serde_json::to_value(T::schema()).expect("JSON")
    }

    #[test]
    fn an_enum_is_a_list_of_strings() {
        for (schema, names) in [
            (schema::<Replicas>(), json!(["one", "each"])),
            (schema::<Interaction>(), json!(["none", "exclusive"])),
            (
                schema::<JobState>(),
                json!([
                    "waiting",
                    "running",
                    "succeeded",
                    "failed",
                    "cancelled",
                    "unknown"
                ]),
            ),
            (
                schema::<ConnectionStatus>(),
                json!(["connected", "connecting", "disconnected", "error"]),
            ),
        ] {
            let mut listed = schema["enum"].as_array().cloned().expect("a list");
            let mut names = names.as_array().cloned().expect("a list");
            listed.sort_by_key(Value::to_string);
            names.sort_by_key(Value::to_string);
            assert_eq!(schema["type"], "string");
            assert_eq!(listed, names);
        }
        let codes = schema::<Code>();
        assert_eq!(
            codes["enum"].as_array().map(Vec::len),
            Some(Code::ALL.len())
        );
    }

    #[test]
    fn an_object_keeps_its_fields_defaults_and_limits() {
        let options = schema::<ReconnectionOptions>();
        assert_eq!(options["additionalProperties"], false);
        let delay = &options["properties"]["initialReconnectionDelay"];
        assert_eq!(
            (
                &delay["type"],
                &delay["format"],
                &delay["default"],
                &delay["minimum"]
            ),
            (&json!("integer"), &json!("int64"), &json!(1000), &json!(0))
        );
        let dead_letter = schema::<DeadLetter>();
        assert_eq!(
            dead_letter["required"],
            json!(["letter", "id", "command", "reason", "size", "until"])
        );
        assert_eq!(dead_letter["properties"]["letter"]["type"], "string");
    }

    #[test]
    fn every_object_has_fields() {
        for schema in [
            schema::<DeadLetter>(),
            schema::<JobProgress>(),
            schema::<KeyUsage>(),
            schema::<LogLine>(),
            schema::<ReconnectionOptions>(),
            schema::<RotationReport>(),
            schema::<CompactionReport>(),
        ] {
            let fields = schema["properties"].as_object().map_or(0, Map::len);
            assert!(fields > 0, "{schema}");
        }
    }
}
