//! Turns OAuth tokens of the predecessor into requests that store them.

use serde_json::{Map, Value, json};

use super::plan::text;
use crate::core::names::{ServerName, UserName};
use crate::crypto::predecessor::PredecessorKey;
use crate::time::rfc3339::parse_ms;

/// The fields that the predecessor seals.
const SEALED_FIELDS: [&str; 4] = [
    "accessToken",
    "refreshToken",
    "clientSecret",
    "codeVerifier",
];
/// The fields that the predecessor stores as text.
const PLAIN_FIELDS: [&str; 3] = ["tokenType", "clientId", "redirectUri"];

pub(super) struct GrantImport {
    pub server: ServerName,
    /// Names the tokens in messages.
    pub description: String,
    /// The body of the request. No message shows the body, because it contains the tokens.
    pub body: Value,
}

/// Returns the request that stores the tokens, or the reason why they cannot be imported.
pub(super) fn grant(
    document: &Value,
    key: &PredecessorKey,
    now_ms: u64,
) -> Result<GrantImport, String> {
    let server = text(document, "serverName");
    let user = document["username"].as_str();
    let owner = user.unwrap_or("all users");
    let description = format!("the OAuth tokens of {owner} for {server}");
    let server: ServerName = server
        .parse()
        .map_err(|why| format!("{description}: the name of the server {why}"))?;
    let mut body = Map::new();
    if let Some(user) = user {
        let user: UserName = user
            .parse()
            .map_err(|why| format!("{description}: the name of the user {why}"))?;
        body.insert("username".into(), json!(user));
    }
    for field in PLAIN_FIELDS {
        if let Some(value) = document[field].as_str() {
            body.insert(field.into(), value.into());
        }
    }
    for field in SEALED_FIELDS {
        if let Some(sealed) = document[field].as_str().filter(|sealed| !sealed.is_empty()) {
            let closed = || {
                format!("{description}: the SECRETS_KEY of the predecessor does not open `{field}`")
            };
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
    if let Some(expiry) = time_ms(&document["expiresAt"]) {
        // A worker refreshes an expired token before it uses the token.
        body.insert(
            "expiresIn".into(),
            (expiry.saturating_sub(now_ms) / 1000).max(1).into(),
        );
    }
    body.insert("ifAbsent".into(), true.into());
    Ok(GrantImport {
        server,
        description,
        body: body.into(),
    })
}

/// Returns a time in milliseconds since 1970, of an RFC 3339 text or a number. A small number counts seconds.
fn time_ms(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().map(|time| {
            if time < 100_000_000_000 {
                time * 1000
            } else {
                time
            }
        }),
        Value::String(text) => parse_ms(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keyring::SecretsKey;

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
    fn a_token_that_does_not_open_is_reported_without_the_token() {
        let document =
            json!({ "serverName": "remote", "accessToken": SEALED, "refreshToken": "plain" });
        let why = grant(&document, &key(), 0).err().expect("refused");
        assert_eq!(
            why,
            "the OAuth tokens of all users for remote: the SECRETS_KEY of the predecessor does not open `refreshToken`"
        );
    }
}
