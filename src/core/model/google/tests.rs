//! Unit tests of the results of Google tools.

use super::*;
use serde_json::{Value, json};

/// Returns a tool result in every form that servers use.
fn forms(value: &Value) -> Vec<Value> {
    let text = |text: &str| json!({ "content": [{ "type": "text", "text": text }] });
    let plain = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    vec![
        text(&plain),
        text(&format!(" {plain}\n")),
        text(&Value::String(plain).to_string()),
        json!({ "content": [{ "type": "text", "text": "Here it is" }], "structuredContent": { "result": value } }),
        json!({ "structuredContent": { "result": value.to_string() } }),
    ]
}

#[test]
fn a_url_is_found_in_every_form() {
    let user: UserName = "ana".parse().expect("a name");
    let url = r#"https://accounts.google.com/o?state=%7B%22userId%22%3A%22ana%22%7D&x=1"#;
    for result in forms(&json!(url))
        .into_iter()
        .chain(forms(&json!({ "authorizationUrl": url })))
    {
        let (found, state) = consent(result.to_string().as_bytes(), &user).expect("a URL");
        assert_eq!(
            (found.as_str(), state.as_str()),
            (url, r#"{"userId":"ana"}"#),
            "{result}"
        );
    }
}

#[test]
fn a_url_that_is_no_consent_page_of_the_user_is_refused() {
    let user: UserName = "ana".parse().expect("a name");
    for (url, why) in [
        (
            "http://accounts.google.com/?state={\"userId\":\"ana\"}",
            "https",
        ),
        ("javascript:alert(1)", "https"),
        ("please visit https://accounts.google.com/", "https"),
        ("https://accounts.google.com/", "without a state"),
        (
            "https://accounts.google.com/?state={\"userId\":\"ben\"}",
            "userId",
        ),
        ("https://accounts.google.com/?state=ana", "userId"),
        ("https://accounts.google.com/?state=[\"ana\"]", "userId"),
    ] {
        let result = json!({ "content": [{ "type": "text", "text": url }] }).to_string();
        let failure = consent(result.as_bytes(), &user).expect_err(url);
        assert!(
            failure.code == Code::UpstreamError && failure.message.contains(why),
            "{failure}"
        );
    }
}

#[test]
fn tokens_are_found_in_every_form_and_keep_their_spelling() {
    let said = json!({ "access_token": "a", "expiry_date": 1.50, "scope": "x y" });
    for result in forms(&said)
        .into_iter()
        .chain(forms(&json!({ "tokens": said })))
    {
        let found = tokens(result.to_string().as_bytes()).expect("tokens");
        assert_eq!(*found, said.to_string(), "{result}");
    }
    for said in [
        json!({}),
        json!({ "access_token": "" }),
        json!({ "access_token": 7 }),
        json!(["access_token"]),
    ] {
        for result in forms(&said) {
            assert!(tokens(result.to_string().as_bytes()).is_err(), "{result}");
        }
    }
    let refused =
        json!({ "content": [{ "type": "text", "text": "invalid_grant" }], "isError": true })
            .to_string();
    assert_eq!(
        tokens(refused.as_bytes())
            .expect_err("refused")
            .details
            .as_deref(),
        Some("invalid_grant")
    );
    assert!(tokens(b"[]").is_err() && tokens(b"{}").is_err());
}

#[test]
fn a_refresh_token_stays_until_there_is_a_new_one() {
    let keep = |new: &str, old: &str| {
        let kept = keep_refresh_token(Zeroizing::new(new.into()), old);
        serde_json::from_str::<Value>(&kept).expect("JSON")["refresh_token"].clone()
    };
    let old = r#"{"access_token":"a","refresh_token":"old"}"#;
    assert_eq!(keep(r#"{"access_token":"b"}"#, old), "old");
    assert_eq!(
        keep(r#"{"access_token":"b","refresh_token":null}"#, old),
        "old"
    );
    assert_eq!(
        keep(r#"{"access_token":"b","refresh_token":"new"}"#, old),
        "new"
    );
    assert_eq!(
        keep(r#"{"access_token":"b"}"#, r#"{"access_token":"a"}"#),
        Value::Null
    );
}

#[test]
fn every_secret_part_is_found() {
    let json = r#"{"access_token":"a\n","web":{"client_id":"i","client_secret":"s"},"token_type":"Bearer","id_token":"d"}"#;
    let mut found: Vec<_> = secret_parts(json)
        .iter()
        .map(|text| text.to_string())
        .collect();
    found.sort();
    assert_eq!(found, ["a\n", "d", "s"]);
    assert!(secret_parts("[]").is_empty());
}

#[test]
fn null_fields_of_a_result_count_as_absent() {
    let text = json!({ "access_token": "a" }).to_string();
    let result = json!({
        "content": [null, { "type": "text", "text": text }],
        "structuredContent": null,
        "isError": null
    });
    assert!(tokens(result.to_string().as_bytes()).is_ok());
    assert!(tokens(br#"{"content":null}"#).is_err());
}
