//! Servers behind a URL: what a user says of one, which of it is sealed, and what is remembered of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::server::MAX_TIMEOUT_MS;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;

/// What stands in answers where something is sealed; in an update it keeps the value.
pub const HIDDEN: &str = "***";
/// Headers whose values are sealed.
const CREDENTIALS: [&str; 4] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
];
/// Headers that belong to the protocol or to the connection.
const RESERVED: [&str; 13] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Where a Streamable HTTP server is and what it is told with every request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remote {
    /// Without user info: `***` stands where there is some.
    pub url: String,
    /// Where the URL's `user:password` lies in the Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_info: Option<ValueId>,
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderValue>,
    #[serde(default)]
    pub reconnection_options: ReconnectionOptions,
}

/// A header's value, or where it lies in the Vault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HeaderValue {
    Plain(String),
    Sealed { sealed: ValueId },
}

/// How an interrupted stream is taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ReconnectionOptions {
    /// Milliseconds before the first attempt, unless the server says otherwise.
    pub initial_reconnection_delay: u64,
    /// Milliseconds between two attempts at most.
    pub max_reconnection_delay: u64,
    /// What the delay is multiplied with after each attempt.
    pub reconnection_delay_grow_factor: f64,
    /// Attempts in a row.
    pub max_retries: u32,
}

impl Default for ReconnectionOptions {
    fn default() -> Self {
        Self {
            initial_reconnection_delay: 1000,
            max_reconnection_delay: 30_000,
            reconnection_delay_grow_factor: 1.5,
            max_retries: 2,
        }
    }
}

/// The way a server was found to speak, which spares the search next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProtocolMode {
    /// 2026-07-28 and later: `server/discover`, no session.
    Stateless,
    /// 2025-03-26 to 2025-11-25: `initialize`, and a session where the server wants one.
    Session,
    /// 2024-11-05: an event stream, and an endpoint to post to.
    Sse,
}

/// A value that was sealed at the door and is bound for the Vault.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SealedValue {
    pub value: ValueId,
    /// Base64.
    pub sealed: String,
}

impl std::fmt::Debug for SealedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedValue({})", self.value)
    }
}

/// A session as the Vault keeps it: its id is a credential.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSession {
    pub id: String,
    /// The server's InitializeResult; absent where a user gave the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialize: Option<serde_json::Value>,
}

impl Remote {
    /// Everything of it in the Vault.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let sealed = |value: &HeaderValue| match value {
            HeaderValue::Plain(_) => None,
            HeaderValue::Sealed { sealed } => Some(*sealed),
        };
        self.user_info
            .into_iter()
            .chain(self.headers.values().filter_map(sealed))
    }

    /// The site it is at.
    pub fn origin(&self) -> Option<String> {
        Url::parse(&plain_url(&self.url))
            .ok()
            .map(|url| url.origin().ascii_serialization())
    }

    pub fn check(&self) -> Result<(), Failure> {
        split_user_info(&self.url)?;
        let mut seen = Vec::new();
        for (name, value) in &self.headers {
            check_header(name, value)?;
            if seen
                .iter()
                .any(|seen: &&String| seen.eq_ignore_ascii_case(name))
            {
                return Err(Failure::invalid(format!(
                    "headers has {name} twice; upper and lower case are the same"
                )));
            }
            seen.push(name);
        }
        let options = &self.reconnection_options;
        let delays = options
            .initial_reconnection_delay
            .max(options.max_reconnection_delay);
        let factor = options.reconnection_delay_grow_factor;
        if delays > MAX_TIMEOUT_MS || !(1.0..=100.0).contains(&factor) || options.max_retries > 1000
        {
            return Err(Failure::invalid(format!(
                "reconnectionOptions must have delays of at most {MAX_TIMEOUT_MS} milliseconds, a grow factor of 1 to 100 and at most 1000 retries"
            )));
        }
        Ok(())
    }

    /// What an update says of it. A header without a value keeps the sealed one.
    pub fn change(&mut self, change: &RemoteChange) -> Result<(), Failure> {
        if let Some(url) = &change.url {
            self.url.clone_from(url);
            match change.user_info {
                Some(new) => self.user_info = new,
                None if self.user_info.is_some() => {}
                None => {
                    return Err(Failure::invalid(
                        "url has *** for its user info, and none is stored",
                    ));
                }
            }
        }
        if let Some(headers) = &change.headers {
            let old = std::mem::take(&mut self.headers);
            for (name, value) in headers {
                let kept = || {
                    old.iter()
                        .find(|(old, _)| old.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.clone())
                };
                let value = value.clone().or_else(kept);
                let nothing = || {
                    Failure::invalid(format!(
                        "headers.{name} is ***, and no value of it is stored"
                    ))
                };
                self.headers
                    .insert(name.clone(), value.ok_or_else(nothing)?);
            }
        }
        if let Some(options) = change.reconnection_options {
            self.reconnection_options = options.unwrap_or_default();
        }
        Ok(())
    }
}

/// The part of an update that concerns servers behind a URL.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Beside a URL: where its user info lies, `null` where it has none; absent keeps the old one.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::server::given"
    )]
    pub user_info: Option<Option<ValueId>>,
    /// All headers; `null` keeps a sealed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, Option<HeaderValue>>>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::server::given"
    )]
    pub reconnection_options: Option<Option<ReconnectionOptions>>,
    /// Where the session to be resumed lies; `null` begins a new one.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "super::server::given"
    )]
    pub session: Option<Option<ValueId>>,
}

impl RemoteChange {
    /// Which fields of it are given, as users know them.
    pub fn given(&self) -> [(&'static str, bool); 4] {
        [
            ("url", self.url.is_some()),
            ("headers", self.headers.is_some()),
            ("sessionId", self.session.is_some()),
            ("reconnectionOptions", self.reconnection_options.is_some()),
        ]
    }
}

/// Whether a header's value is sealed and never shown.
pub fn is_credential(header: &str) -> bool {
    CREDENTIALS
        .iter()
        .any(|name| header.eq_ignore_ascii_case(name))
}

/// The URL as it may be shown, and its user info. No sentence of it holds the URL: there may be a password in it.
pub fn split_user_info(text: &str) -> Result<(String, Option<String>), Failure> {
    let wrong =
        || Failure::invalid("url must be an absolute http:// or https:// URL without a fragment");
    let mut url = Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https")
        || url.host_str().is_none()
        || url.fragment().is_some()
    {
        return Err(wrong());
    }
    if url.username().is_empty() && url.password().is_none() {
        return Ok((url.into(), None));
    }
    // As it was written: what is escaped in it stays so until it becomes a header.
    let user_info = match url.password() {
        Some(password) => format!("{}:{password}", url.username()),
        None => url.username().to_owned(),
    };
    url.set_password(None).map_err(|()| wrong())?;
    url.set_username("").map_err(|()| wrong())?;
    let shown = url.as_str().replacen("://", &format!("://{HIDDEN}@"), 1);
    Ok((shown, Some(user_info)))
}

/// The URL without the place of its user info.
pub fn plain_url(shown: &str) -> String {
    shown.replacen(&format!("://{HIDDEN}@"), "://", 1)
}

fn check_header(name: &str, value: &HeaderValue) -> Result<(), Failure> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(Failure::invalid(
            "headers must map names of HTTP headers to texts",
        ));
    }
    if RESERVED
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
    {
        return Err(Failure::invalid(format!(
            "headers must not set {name}: it belongs to the protocol"
        )));
    }
    match value {
        HeaderValue::Plain(value) => check_header_value(name, value),
        HeaderValue::Sealed { .. } => Ok(()),
    }
}

/// A text that can be a header's value. The sentence does not show it.
pub fn check_header_value(name: &str, value: &str) -> Result<(), Failure> {
    if value.len() > 16 * 1024 || value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Failure::invalid(format!(
            "headers.{name} must be one line of at most 16 KiB"
        )));
    }
    Ok(())
}

/// A session id is visible ASCII (MCP 2025-11-25, transports).
pub fn check_session_id(id: &str) -> Result<(), Failure> {
    if id.is_empty() || id.len() > 1024 || !id.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
        return Err(Failure::invalid(
            "sessionId must be 1 to 1024 visible ASCII characters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_info_is_taken_out_of_a_url() {
        let split = |text: &str| split_user_info(text).map_err(|failure| failure.message);
        assert_eq!(
            split("https://h/mcp?a=b"),
            Ok(("https://h/mcp?a=b".into(), None))
        );
        assert_eq!(
            split("https://u:p%40@h:1/mcp"),
            Ok(("https://***@h:1/mcp".into(), Some("u:p%40".into())))
        );
        assert_eq!(
            split("http://u@h"),
            Ok(("http://***@h/".into(), Some("u".into())))
        );
        assert_eq!(plain_url("https://***@h:1/mcp"), "https://h:1/mcp");
        for bad in [
            "",
            "h/mcp",
            "ftp://h",
            "http://",
            "http://h/#x",
            "unix:/x",
            "http://u:secret@ h",
        ] {
            let refused = split(bad).expect_err(bad);
            assert!(!refused.contains("secret"), "{refused}");
        }
    }

    #[test]
    fn headers_of_the_protocol_and_broken_ones_are_refused() {
        let plain = |value: &str| HeaderValue::Plain(value.into());
        assert!(check_header("X-Custom", &plain("a b")).is_ok());
        for (name, value) in [
            ("Mcp-Session-Id", "x"),
            ("host", "x"),
            ("a b", "x"),
            ("", "x"),
            ("x", "a\r\nb: c"),
        ] {
            assert!(check_header(name, &plain(value)).is_err(), "{name}");
        }
    }
}
