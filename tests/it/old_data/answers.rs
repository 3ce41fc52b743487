//! Compares the answers and the events of this program with those of version 0.1.

use serde_json::{Value, json};

use crate::harness::App;

use super::{FAR, saved};

/// An event type that had another name when the data were written.
struct Renamed {
    old: &'static str,
    new: &'static str,
    /// The new subject, if the subject changed too.
    subject: Option<&'static str>,
    /// The old and the new name of a field of `data`, if a field changed.
    field: Option<(&'static str, &'static str)>,
}

/// All renamed event types. The data contain the old names, and `GET /events` shows the new names.
const RENAMED: &[Renamed] = &[
    Renamed {
        old: "server.era_found",
        new: "server.protocol_detected",
        subject: None,
        field: Some(("era", "protocol")),
    },
    Renamed {
        old: "grant.refreshing",
        new: "grant.refresh_started",
        subject: None,
        field: None,
    },
    Renamed {
        old: "grant.not_refreshed",
        new: "grant.refresh_failed",
        subject: None,
        field: None,
    },
    Renamed {
        old: "job.returned",
        new: "job.requeued",
        subject: None,
        field: None,
    },
    Renamed {
        old: "job.forgotten",
        new: "job.expired",
        subject: None,
        field: None,
    },
    Renamed {
        old: "dead.kept",
        new: "dead_letter.stored",
        subject: Some("dead_letters"),
        field: None,
    },
    Renamed {
        old: "dead.dropped",
        new: "dead_letter.removed",
        subject: Some("dead_letters"),
        field: None,
    },
    Renamed {
        old: "request.kept",
        new: "idempotency.recorded",
        subject: Some("idempotency"),
        field: None,
    },
    Renamed {
        old: "request.forgotten",
        new: "idempotency.expired",
        subject: Some("idempotency"),
        field: None,
    },
];

/// Fields of `data` that the earlier program showed and this program hides, because they are ids of sealed values or
/// digests of keys.
const HIDDEN: &[(&str, &[&str])] = &[
    ("server.session_opened", &["/value"]),
    ("server.session_ended", &["/value"]),
    ("grant.stored", &["/tokens/access", "/tokens/renewal"]),
    ("grant.refreshed", &["/tokens/access", "/tokens/renewal"]),
    ("grant.refresh_started", &["/access"]),
    ("grant.refresh_failed", &["/access"]),
    ("package.installed", &["/package/recipe/lock"]),
    ("package.upgraded", &["/package/recipe/lock"]),
    ("dead_letter.stored", &["/letter"]),
    ("dead_letter.removed", &["/letters"]),
    ("idempotency.recorded", &["/scope", "/body"]),
    ("idempotency.expired", &["/scopes"]),
];

/// Fields that show the present moment.
const LIVE: &[&str] = &["status", "logs", "error", "details"];

/// Returns the saved event in the form that this program shows.
fn current_form(event: Value) -> Value {
    let mut event = renamed(event);
    // The earlier program wrote a word for the author.
    event["actor"] = json!({ "kind": event["actor"] });
    let hidden = HIDDEN.iter().find(|(name, _)| event["type"] == *name);
    for pointer in hidden.map_or(&[][..], |(_, pointers)| *pointers) {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let parent = event["data"].pointer_mut(parent).expect("an object");
        parent
            .as_object_mut()
            .expect("an object")
            .remove(field)
            .expect("the field");
    }
    let headers = event["data"].pointer_mut("/config/headers");
    for header in headers
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|headers| headers.values_mut())
    {
        if header.is_object() {
            *header = json!("***");
        }
    }
    event
}

/// Returns the event with its current type, subject and field names.
fn renamed(mut event: Value) -> Value {
    let Some(renamed) = RENAMED.iter().find(|renamed| event["type"] == renamed.old) else {
        return event;
    };
    event["type"] = json!(renamed.new);
    if let Some(subject) = renamed.subject {
        event["subject"] = json!(subject);
    }
    if let Some((old, new)) = renamed.field {
        let data = event["data"].as_object_mut().expect("data");
        let value = data.remove(old).expect("the field");
        data.insert(new.into(), value);
    }
    event
}

/// Returns the body without the values that the tests do not compare.
pub fn masked(mut body: Value) -> Value {
    for field in ["server", "package", "job"] {
        if let Some(one) = body.get_mut(field) {
            mask(one);
        }
    }
    for field in ["servers", "packages", "jobs"] {
        if let Some(all) = body.get_mut(field).and_then(Value::as_array_mut) {
            all.iter_mut().for_each(mask);
        }
    }
    body
}

fn mask(one: &mut Value) {
    let ended_before = one["expires"] == FAR;
    let is_stored = ended_before && one["state"] != "cancelled" && one["state"] != "unknown";
    let fields = one.as_object_mut().expect("an object");
    fields.retain(|field, _| !LIVE.contains(&field.as_str()));
    if !ended_before {
        fields.retain(|field, _| field != "expires" && field != "attempts");
    }
    // Only a stored sentence is compared. This program makes the other sentences.
    if !is_stored
        && let Some(body) = one
            .pointer_mut("/answer/body")
            .and_then(Value::as_object_mut)
    {
        body.remove("error");
    }
}

/// Checks every saved answer. Jobs that the earlier program left running need a moment to end.
pub async fn check_answers(app: &App) {
    let data = app.data().display().to_string();
    for saved in saved("answers.json") {
        let path = saved["path"].as_str().expect("a path");
        // The earlier program showed this header. This program hides all headers but a few harmless ones.
        let body = saved["body"].to_string();
        let body = body.replace(r#""X-Team":"blue""#, r#""X-Team":"***""#);
        let expected = masked(serde_json::from_str(&body).expect("JSON"));
        let is_expected = |body: &Value| {
            let body = body.to_string().replace(&data, "DATA_DIR");
            masked(serde_json::from_str(&body).expect("JSON")) == expected
        };
        app.until(path, is_expected).await;
    }
}

/// Checks that the log begins with the saved events.
pub async fn check_events(app: &App) {
    let mut page = app.get("/events?limit=1000&after=0.0").await.ok();
    let mut found = page["events"]
        .as_array_mut()
        .map(std::mem::take)
        .expect("events");
    let expected: Vec<_> = saved("events.json").into_iter().map(current_form).collect();
    found.truncate(expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    if let Some(Renamed {
        new,
        subject: Some(subject),
        ..
    }) = RENAMED.iter().find(|renamed| renamed.subject.is_some())
    {
        let page = app
            .get(&format!("/events?limit=1000&after=0.0&subject={subject}"))
            .await
            .ok();
        assert!(
            page["events"]
                .as_array()
                .expect("events")
                .iter()
                .any(|event| event["type"] == *new),
            "{page}"
        );
    }
}
