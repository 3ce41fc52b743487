//! An original's OAuth tokens as requests that keep them here.

use serde_json::{Map, Value, json};

use super::plan::text;
use crate::core::names::{ServerName, UserName};
use crate::crypto::predecessor::PredecessorKey;
use crate::time::rfc3339::parse_ms;

/// Fields that the original keeps sealed.
const SEALED: [&str; 4] = [
    "accessToken",
    "refreshToken",
    "clientSecret",
    "codeVerifier",
];
const PLAIN: [&str; 3] = ["tokenType", "clientId", "redirectUri"];

pub struct GrantImport {
    pub server: ServerName,
    pub called: String,
    /// With the tokens in it: never shown.
    pub body: Value,
}

/// Tokens, or why they cannot be taken.
pub fn grant(document: &Value, key: &PredecessorKey, now_ms: u64) -> Result<GrantImport, String> {
    let (server, user) = (text(document, "serverName"), document["username"].as_str());
    let whose = user.map_or("of all users".to_owned(), |user| format!("of {user}"));
    let called = format!("the OAuth tokens {whose} for {server}");
    let server: ServerName = server
        .parse()
        .map_err(|why| format!("{called}: the server's name {why}"))?;
    let mut body = Map::new();
    if let Some(user) = user {
        let user: UserName = user
            .parse()
            .map_err(|why| format!("{called}: the user's name {why}"))?;
        body.insert("username".into(), json!(user));
    }
    for field in PLAIN {
        if let Some(value) = document[field].as_str() {
            body.insert(field.into(), value.into());
        }
    }
    for field in SEALED {
        if let Some(sealed) = document[field].as_str().filter(|sealed| !sealed.is_empty()) {
            let closed =
                || format!("{called}: the original's SECRETS_KEY does not open its {field}");
            let opened = key.open(sealed).map_err(|_| closed())?;
            body.insert(field.into(), opened.expose().map_err(|_| closed())?.into());
        }
    }
    let scopes: Option<Vec<&str>> = match &document["scopes"] {
        Value::Array(scopes) => Some(scopes.iter().filter_map(Value::as_str).collect()),
        Value::String(scopes) => Some(scopes.split_whitespace().collect()),
        _ => None,
    };
    if let Some(scopes) = scopes {
        body.insert("scopes".into(), json!(scopes));
    }
    if let Some(at) = moment(&document["expiresAt"]) {
        // One that has ended is refreshed before it is used.
        body.insert(
            "expiresIn".into(),
            (at.saturating_sub(now_ms) / 1000).max(1).into(),
        );
    }
    body.insert("ifAbsent".into(), true.into());
    Ok(GrantImport {
        server,
        called,
        body: body.into(),
    })
}

/// Milliseconds since 1970, of a date, a text or a number; a small number counts seconds.
fn moment(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .map(|at| if at < 100_000_000_000 { at * 1000 } else { at }),
        Value::String(text) => parse_ms(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::seal::SecretsKey;

    const SEALED: &str =
        "000102030405060708090a0b:c85e1392ad5356a43f59a8f276f475a3:cebed4d41da616f5";

    fn key() -> PredecessorKey {
        PredecessorKey::new(&SecretsKey::new("secret".into())).expect("a key")
    }

    #[test]
    fn tokens_become_a_request() {
        let document = json!({
            "_id": "x", "serverName": "remote", "username": "ana", "tokenType": "Bearer", "accessToken": SEALED,
            "refreshToken": SEALED, "clientSecret": null, "expiresAt": 1_700_000_060_000u64, "scopes": "a b",
            "clientId": "c", "redirectUri": "https://h/cb",
        });
        let taken = grant(&document, &key(), 1_700_000_000_000)
            .expect("taken")
            .body;
        let wanted = json!({
            "username": "ana", "tokenType": "Bearer", "accessToken": "ghp_test", "refreshToken": "ghp_test",
            "expiresIn": 60, "scopes": ["a", "b"], "clientId": "c", "redirectUri": "https://h/cb", "ifAbsent": true,
        });
        assert_eq!(taken, wanted);
        for (at, seconds) in [
            (json!(1_700_000_010), 10),
            (json!("2023-11-14T22:13:50Z"), 30),
            (json!(5), 1),
        ] {
            let mut document = document.clone();
            document["expiresAt"] = at;
            assert_eq!(
                grant(&document, &key(), 1_700_000_000_000)
                    .expect("taken")
                    .body["expiresIn"],
                seconds
            );
        }
    }

    #[test]
    fn what_does_not_open_is_said_without_it() {
        let document =
            json!({ "serverName": "remote", "accessToken": SEALED, "refreshToken": "plain" });
        let why = grant(&document, &key(), 0).err().expect("refused");
        assert_eq!(
            why,
            "the OAuth tokens of all users for remote: the original's SECRETS_KEY does not open its refreshToken"
        );
    }
}
