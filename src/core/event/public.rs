//! Selects the fields of events that readers of `GET /events` see.
//!
//! The list denies by default: a field that is not listed stays hidden, and an event type that is
//! not listed shows its type and its subject only. No list names an id of a sealed value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::{RawValue, to_raw_value};

use super::StoredEvent;
use crate::core::model::query::shown_url;
use crate::core::model::remote::HIDDEN;

/// The part of a JSON value that readers see.
enum Shown {
    /// The whole value.
    All,
    /// The listed fields of an object.
    Fields(Fields),
    /// An object whose texts are public. `***` stands for every other value.
    Texts,
    /// A URL. `***` stands for the values of its query that may be credentials, because earlier versions stored them in
    /// plain text.
    Url,
}

use Shown::{All, Texts, Url};

type Fields = &'static [(&'static str, Shown)];

const SERVER: Fields = &[("server", All), ("name", All)];
const SECRET: Fields = &[("server", All), ("serverName", All), ("user", All)];
const JOB: Fields = &[("job", All)];

const CONFIG: Fields = &[
    ("transportType", All),
    ("command", All),
    ("args", All),
    ("env", All),
    ("url", Url),
    ("headers", Texts),
    ("reconnectionOptions", All),
    ("startupTimeout", All),
    ("toolTimeout", All),
    ("resetTimeoutOnProgress", All),
    ("hideSecretArguments", All),
    ("replicas", All),
    ("interaction", All),
    ("credentials", All),
];

const GRANT_TOKENS: Fields = &[
    ("server", All),
    ("serverName", All),
    ("user", All),
    (
        "tokens",
        Shown::Fields(&[("refreshable", All), ("expiresAt", All), ("refreshAt", All)]),
    ),
];

const PACKAGE_INDEX: Shown = Shown::Fields(&[("url", All)]);

const PACKAGE: Fields = &[
    ("server", All),
    ("name", All),
    ("at", All),
    (
        "package",
        Shown::Fields(&[
            ("name", All),
            ("version", All),
            (
                "source",
                Shown::Fields(&[
                    ("runtime", All),
                    ("module", All),
                    ("args", All),
                    ("dependencies", All),
                    ("indexUrl", PACKAGE_INDEX),
                    ("extraIndexUrl", PACKAGE_INDEX),
                ]),
            ),
            ("recipe", Shown::Fields(&[("digest", All), ("entry", All)])),
        ]),
    ),
];

/// The public fields of every event type.
const PUBLIC: &[(&str, Fields)] = &[
    (
        "server.registered",
        &[
            ("server", All),
            ("name", All),
            ("enabled", All),
            ("config", Shown::Fields(CONFIG)),
        ],
    ),
    (
        "server.updated",
        &[
            ("server", All),
            ("name", All),
            ("config", Shown::Fields(CONFIG)),
        ],
    ),
    ("server.enabled", SERVER),
    ("server.disabled", SERVER),
    ("server.deleted", SERVER),
    (
        "server.tools_discovered",
        &[
            ("server", All),
            ("name", All),
            ("digest", All),
            ("tools", All),
        ],
    ),
    (
        "server.described",
        &[
            ("server", All),
            ("name", All),
            ("digest", All),
            ("capabilities", All),
            ("serverInfo", All),
            ("instructions", All),
            ("protocolVersion", All),
        ],
    ),
    (
        "server.protocol_detected",
        &[("server", All), ("name", All), ("protocol", All)],
    ),
    ("server.session_opened", SERVER),
    ("server.session_ended", SERVER),
    ("grant.stored", GRANT_TOKENS),
    ("grant.refresh_started", SECRET),
    ("grant.refreshed", GRANT_TOKENS),
    (
        "grant.refresh_failed",
        &[
            ("server", All),
            ("serverName", All),
            ("user", All),
            ("refused", All),
        ],
    ),
    ("grant.removed", SECRET),
    ("package.installed", PACKAGE),
    ("package.upgraded", PACKAGE),
    (
        "package.latest_found",
        &[("server", All), ("name", All), ("latest", All)],
    ),
    ("package.removed", SERVER),
    ("secret.set", SECRET),
    ("secret.deleted", SECRET),
    (
        "job.accepted",
        &[
            ("job", All),
            ("user", All),
            ("command", All),
            ("server", All),
            ("tool", All),
            ("token", All),
        ],
    ),
    (
        "job.started",
        &[("job", All), ("attempt", All), ("worker", All)],
    ),
    (
        "job.progressed",
        &[
            ("job", All),
            ("progress", Shown::Fields(&[("phase", All), ("line", All)])),
        ],
    ),
    ("job.requeued", JOB),
    ("job.cancel_requested", JOB),
    (
        "job.finished",
        &[("job", All), ("state", All), ("until", All)],
    ),
    ("job.expired", &[("jobs", All)]),
    ("google.connected", SECRET),
    ("google.disconnected", SECRET),
    (
        "dead_letter.stored",
        &[
            ("id", All),
            ("command", All),
            ("reason", All),
            ("size", All),
            ("until", All),
        ],
    ),
    (
        "token.created",
        &[
            ("token", All),
            ("user", All),
            ("scopes", All),
            ("servers", All),
            ("label", All),
            ("createdAt", All),
            ("expiresAt", All),
            ("createdBy", All),
            ("maker", All),
        ],
    ),
    (
        "token.revoked",
        &[("token", All), ("user", All), ("at", All)],
    ),
    ("token.removed", &[("tokens", All)]),
    ("idempotency.recorded", &[("command", All), ("until", All)]),
];

/// Returns the public fields of the data of an event in its current form.
///
/// # Errors
/// The data are no JSON object, or a field that the list describes as an object is none.
pub fn public_data(stored: &StoredEvent) -> Result<Box<RawValue>, serde_json::Error> {
    let listed = PUBLIC.iter().find(|(name, _)| *name == stored.type_name);
    select(&stored.data, listed.map_or(&[], |(_, fields)| *fields))
}

type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

fn select(object: &RawValue, fields: Fields) -> Result<Box<RawValue>, serde_json::Error> {
    let object = parse_object(object)?;
    let mut selected: BTreeMap<&str, Cow<'_, RawValue>> = BTreeMap::new();
    for (name, shown) in fields {
        let Some(value) = object.get(*name) else {
            continue;
        };
        let value = match shown {
            All => Cow::Borrowed(*value),
            Shown::Fields(fields) => Cow::Owned(select(value, fields)?),
            Texts => Cow::Owned(select_texts(value)?),
            Url => Cow::Owned(select_url(value)?),
        };
        selected.insert(name, value);
    }
    to_raw_value(&selected)
}

fn select_url(text: &RawValue) -> Result<Box<RawValue>, serde_json::Error> {
    let url: String = serde_json::from_str(text.get())?;
    to_raw_value(&shown_url(&url))
}

/// Replaces every value that is no text.
fn select_texts(object: &RawValue) -> Result<Box<RawValue>, serde_json::Error> {
    let hidden = to_raw_value(HIDDEN)?;
    let mut object = parse_object(object)?;
    for value in object.values_mut() {
        if !value.get().starts_with('"') {
            *value = &hidden;
        }
    }
    to_raw_value(&object)
}

fn parse_object(text: &RawValue) -> Result<Object<'_>, serde_json::Error> {
    if !text.get().starts_with('{') {
        return Err(serde_json::Error::custom("an event field is no object"));
    }
    Object::deserialize(&mut serde_json::Deserializer::from_str(text.get()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::event;

    fn shown(type_name: &str, data: &Value) -> Value {
        let stored = StoredEvent {
            type_name: type_name.to_owned(),
            v: 1,
            subject: "server/notes".to_owned(),
            data: to_raw_value(data).expect("JSON"),
        };
        let data = public_data(&stored).expect("an object");
        serde_json::from_str(data.get()).expect("JSON")
    }

    #[test]
    fn a_type_without_an_entry_shows_no_data() {
        assert_eq!(shown("server.cloned", &json!({ "server": "s" })), json!({}));
        assert_eq!(
            shown("dead_letter.removed", &json!({ "letters": ["v"] })),
            json!({})
        );
    }

    #[test]
    fn a_field_without_an_entry_is_hidden() {
        let data = json!({ "server": "s", "name": "notes", "value": "v", "added": 1 });
        assert_eq!(
            shown("server.session_opened", &data),
            json!({ "server": "s", "name": "notes" })
        );
    }

    #[test]
    fn sealed_headers_and_user_info_are_hidden() {
        let data = json!({ "server": "s", "name": "notes", "enabled": true, "config": {
            "transportType": "streamable_http",
            "url": "https://***@tools.example.com/mcp",
            "userInfo": "v1",
            "headers": { "X-Team": "blue", "X-Api-Key": { "sealed": "v2" } },
            "secretNames": ["token"],
        } });
        assert_eq!(
            shown("server.registered", &data)["config"],
            json!({
                "transportType": "streamable_http",
                "url": "https://***@tools.example.com/mcp",
                "headers": { "X-Team": "blue", "X-Api-Key": "***" },
            })
        );
    }

    #[test]
    fn a_plain_query_of_an_earlier_version_is_hidden() {
        let url = "https://h/mcp?v=2&api_key=plain";
        let data = json!({ "server": "s", "name": "notes", "config": { "url": url } });
        assert_eq!(
            shown("server.updated", &data)["config"]["url"],
            "https://h/mcp?v=2&api_key=***"
        );
    }

    #[test]
    fn tokens_and_recipes_show_no_ids_of_values() {
        let tokens = json!({ "access": "v1", "renewal": "v2", "refreshable": true });
        assert_eq!(
            shown("grant.stored", &json!({ "tokens": tokens })),
            json!({ "tokens": { "refreshable": true } })
        );
        let package = json!({ "name": "p", "recipe": { "digest": "d", "lock": "v" },
            "source": { "indexUrl": { "url": "u", "userInfo": "v" } } });
        assert_eq!(
            shown("package.installed", &json!({ "package": package })),
            json!({ "package": { "name": "p", "recipe": { "digest": "d" },
                "source": { "indexUrl": { "url": "u" } } } })
        );
    }

    #[test]
    fn a_removal_names_the_server_and_the_user_and_no_value() {
        let data = json!({ "server": "s", "serverName": "notes", "user": "ana", "name": "TOKEN",
            "value": "v", "tokens": { "access": "v1", "renewal": "v2", "refreshable": true } });
        for type_name in ["grant.removed", "google.disconnected", "secret.deleted"] {
            assert_eq!(
                shown(type_name, &data),
                json!({ "server": "s", "serverName": "notes", "user": "ana" }),
                "{type_name}"
            );
        }
        // A value that all users share has no user.
        let shared = json!({ "server": "s", "serverName": "notes", "name": "TOKEN", "value": "v" });
        assert_eq!(
            shown("secret.set", &shared),
            json!({ "server": "s", "serverName": "notes" })
        );
    }

    #[test]
    fn credentials_of_a_server_are_shown() {
        let credentials = json!([{ "name": "KEY", "in": "header", "required": true }]);
        let data = json!({ "server": "s", "config": { "credentials": credentials } });
        assert_eq!(
            shown("server.registered", &data)["config"],
            json!({ "credentials": credentials })
        );
    }

    #[test]
    fn every_entry_names_a_current_type_and_every_field_exists() {
        let schemas = event::schemas();
        for (name, fields) in PUBLIC {
            let (_, _, schema) = schemas
                .iter()
                .find(|(current, ..)| current == name)
                .unwrap_or_else(|| panic!("{name} is no current type"));
            let text = serde_json::to_string(schema).expect("JSON");
            for (field, _) in *fields {
                assert!(text.contains(&format!("\"{field}\"")), "{name} {field}");
            }
        }
    }

    #[test]
    fn no_entry_shows_a_field_that_holds_an_id_of_a_value() {
        for (name, _, schema) in event::schemas() {
            let schema = serde_json::to_value(schema).expect("JSON");
            let fields = PUBLIC.iter().find(|(listed, _)| *listed == name);
            let shown: Vec<_> = fields
                .map_or(&[][..], |(_, fields)| *fields)
                .iter()
                .collect();
            for (field, shown) in shown {
                let property = &schema["properties"][*field];
                let text = property.to_string();
                assert!(
                    !(matches!(shown, All) && text.contains("ValueId")),
                    "{name} shows {field}"
                );
            }
        }
    }
}
