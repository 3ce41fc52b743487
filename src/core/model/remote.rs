//! Servers behind a URL: their configuration, the rules for sealed credentials, and updates.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::query::{kept_parameters, merge_query};
use super::timeout::MAX_TIMEOUT_MS;
use super::update::Update;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;

/// Replaces a sealed value in every response. In an update it keeps the sealed value.
pub const HIDDEN: &str = "***";
/// Headers whose values are no credentials. The program seals the values of all other headers.
const HARMLESS_HEADERS: [&str; 9] = [
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "dnt",
    "origin",
    "pragma",
    "referer",
    "user-agent",
];
/// Parts of the names of headers with which a client authenticates.
const AUTHENTICATION_NAMES: [&str; 7] = [
    "auth",
    "cookie",
    "credential",
    "key",
    "password",
    "secret",
    "token",
];
/// Headers that the protocol or the connection sets.
const RESERVED_HEADERS: [&str; 13] = [
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

/// The URL of a server and the headers of every request to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remote {
    /// The URL without credentials. `***` replaces the user info and the values of the query that may be credentials.
    /// Earlier versions stored the values of the query in plain text.
    pub url: String,
    /// The id of the sealed user info (`user:password`) in the Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_info: Option<ValueId>,
    /// The ids of the sealed values of the query, in the order of the `***` in the query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<ValueId>,
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderValue>,
    #[serde(default)]
    pub reconnection_options: ReconnectionOptions,
}

/// The value of a header, or the id of its sealed value in the Vault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HeaderValue {
    Plain(String),
    Sealed { sealed: ValueId },
}

/// The retry policy of an interrupted stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ReconnectionOptions {
    /// The delay before the first attempt in milliseconds, unless the server names another delay.
    pub initial_reconnection_delay: u64,
    /// The longest delay between two attempts in milliseconds.
    pub max_reconnection_delay: u64,
    /// The factor by which the delay grows after each attempt.
    pub reconnection_delay_grow_factor: f64,
    /// The number of attempts in a row.
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

/// The way in which a server speaks MCP. The log stores it, so that the next start does not probe again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProtocolMode {
    /// 2026-07-28 and later: `server/discover`, no session.
    Stateless,
    /// `initialize`, and a session if a server behind a URL opens one. Behind a URL: 2025-03-26 to 2025-11-25. A child
    /// process: 2024-11-05 to 2025-11-25.
    Session,
    /// 2024-11-05 behind a URL: an event stream, and an endpoint for requests.
    Sse,
}

/// A value that a facade has sealed and a worker stores in the Vault.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SealedValue {
    pub value: ValueId,
    /// The sealed bytes in base64.
    pub sealed: String,
}

impl std::fmt::Debug for SealedValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SealedValue({})", self.value)
    }
}

/// A session as the Vault stores it. The Vault seals it, because the session id is a credential.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredSession {
    pub id: String,
    /// The InitializeResult of the server, absent if a user has set the session id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialize: Option<serde_json::Value>,
}

impl Remote {
    /// Returns a remote endpoint without credentials and with default options.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user_info: None,
            query: vec![],
            headers: BTreeMap::new(),
            reconnection_options: ReconnectionOptions::default(),
        }
    }

    /// Returns the ids of all sealed values.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let sealed_headers = self.headers.values().filter_map(|value| match value {
            HeaderValue::Plain(_) => None,
            HeaderValue::Sealed { sealed } => Some(*sealed),
        });
        let sealed_query = self.query.iter().copied();
        self.user_info
            .into_iter()
            .chain(sealed_query)
            .chain(sealed_headers)
    }

    /// Returns scheme, host and port of the URL.
    pub fn origin(&self) -> Option<String> {
        origin_of(&self.url)
    }

    /// Checks the URL, the headers and the reconnection options.
    ///
    /// # Errors
    /// The failure names the field and the rule, and never repeats a value.
    pub fn check(&self) -> Result<(), Failure> {
        split_user_info(&self.url)?;
        check_headers(&self.headers)?;
        self.reconnection_options.check()
    }

    /// Applies an update. A header or a parameter of the query without a value keeps its stored value.
    ///
    /// # Errors
    /// Fails if the update keeps a value that is not stored, or keeps a credential for another origin.
    pub fn apply(&mut self, change: &RemoteChange) -> Result<(), Failure> {
        if let Some(url) = &change.url {
            if origin_of(url) != self.origin() {
                self.require_new_credentials(change)?;
            }
            if change.user_info.is_keep() && self.user_info.is_none() {
                return Err(Failure::invalid(
                    "url has *** as its user info, but no user info is stored; replace *** with the user info",
                ));
            }
            (self.url, self.query) = merge_query(&self.url, &self.query, url, &change.query)?;
            self.user_info = change.user_info.apply_to(self.user_info);
        }
        if let Some(headers) = &change.headers {
            self.headers = self.merge_headers(headers)?;
        }
        match change.reconnection_options {
            Update::Keep => {}
            Update::Clear => self.reconnection_options = ReconnectionOptions::default(),
            Update::Set(options) => self.reconnection_options = options,
        }
        Ok(())
    }

    /// Refuses an update that would send a stored credential to the origin of its new URL.
    fn require_new_credentials(&self, change: &RemoteChange) -> Result<(), Failure> {
        let mut kept: Vec<String> = self
            .headers
            .iter()
            .filter(|(name, value)| is_stored_credential(name, value))
            .filter(|(name, _)| change.keeps_header(name))
            .map(|(name, _)| format!("headers.{name}"))
            .collect();
        if self.user_info.is_some() && change.user_info.is_keep() {
            kept.push("the user info of url".to_owned());
        }
        kept.extend(change.kept_parameters());
        if kept.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "url has another origin than before, and credentials stay with their origin; send new values for {}, or remove them",
            kept.join(", ")
        )))
    }

    fn merge_headers(
        &self,
        update: &BTreeMap<String, Option<HeaderValue>>,
    ) -> Result<BTreeMap<String, HeaderValue>, Failure> {
        let mut merged = BTreeMap::new();
        for (name, value) in update {
            let stored = || {
                self.headers
                    .iter()
                    .find(|(stored_name, _)| stored_name.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            let value = value.clone().or_else(stored).ok_or_else(|| {
                Failure::invalid(format!(
                    "headers.{name} is ***, but no value of this header is stored; replace *** with the value"
                ))
            })?;
            merged.insert(name.clone(), value);
        }
        Ok(merged)
    }
}

impl ReconnectionOptions {
    fn check(&self) -> Result<(), Failure> {
        let longest_delay = self
            .initial_reconnection_delay
            .max(self.max_reconnection_delay);
        let is_factor_allowed = (1.0..=100.0).contains(&self.reconnection_delay_grow_factor);
        if longest_delay > MAX_TIMEOUT_MS || !is_factor_allowed || self.max_retries > 1000 {
            return Err(Failure::invalid(format!(
                "reconnectionOptions must have delays of at most {MAX_TIMEOUT_MS} milliseconds, a grow factor of 1 to 100 and at most 1000 retries"
            )));
        }
        Ok(())
    }
}

/// The part of an update that applies to servers behind a URL.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The id of the sealed user info of `url`. It counts only if `url` is present.
    #[serde(skip_serializing_if = "Update::is_keep")]
    pub user_info: Update<ValueId>,
    /// The ids of the sealed values of the query of `url`, in the order of its `***`. `null` keeps the stored value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<Option<ValueId>>,
    /// All headers. `null` keeps the stored value of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, Option<HeaderValue>>>,
    #[serde(skip_serializing_if = "Update::is_keep")]
    pub reconnection_options: Update<ReconnectionOptions>,
    /// The id of the sealed session that a worker resumes. `null` opens a new session.
    #[serde(skip_serializing_if = "Update::is_keep")]
    pub session: Update<ValueId>,
}

impl RemoteChange {
    /// Returns the names of the fields in a request, and whether each field is present.
    pub fn present_fields(&self) -> [(&'static str, bool); 4] {
        [
            ("url", self.url.is_some()),
            ("headers", self.headers.is_some()),
            ("sessionId", !self.session.is_keep()),
            ("reconnectionOptions", !self.reconnection_options.is_keep()),
        ]
    }

    /// Names the parameters of the query whose stored values stay after this update.
    fn kept_parameters(&self) -> Vec<String> {
        let url = self.url.as_deref().unwrap_or_default();
        kept_parameters(url, &self.query)
    }

    /// Returns true if the stored value of the header stays after this update.
    fn keeps_header(&self, name: &str) -> bool {
        let Some(headers) = &self.headers else {
            return true;
        };
        headers
            .iter()
            .any(|(new_name, value)| new_name.eq_ignore_ascii_case(name) && value.is_none())
    }
}

/// Returns true if the program seals the value of this header and never shows it.
pub fn is_credential_header(name: &str) -> bool {
    !HARMLESS_HEADERS
        .iter()
        .any(|harmless| name.eq_ignore_ascii_case(harmless))
}

/// Returns true if a server probably authenticates the client by this header. If such a server replies 401, the header
/// is wrong, and OAuth tokens would not help.
pub fn is_authentication_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    AUTHENTICATION_NAMES.iter().any(|part| name.contains(part))
}

/// Returns true if a stored header is a credential. Earlier versions stored some credentials in plain text.
fn is_stored_credential(name: &str, value: &HeaderValue) -> bool {
    matches!(value, HeaderValue::Sealed { .. }) || is_credential_header(name)
}

/// Splits a URL into the URL that a response may show and its user info.
///
/// # Errors
/// Fails if the text is no absolute `http://` or `https://` URL. The failure never repeats the text, because the text
/// may hold a password.
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
    // The user info keeps its percent-encoding until it becomes a header.
    let user_info = match url.password() {
        Some(password) => format!("{}:{password}", url.username()),
        None => url.username().to_owned(),
    };
    url.set_password(None).map_err(|()| wrong())?;
    url.set_username("").map_err(|()| wrong())?;
    let shown = url.as_str().replacen("://", &format!("://{HIDDEN}@"), 1);
    Ok((shown, Some(user_info)))
}

/// Removes the `***` that replaces the user info.
pub fn plain_url(shown: &str) -> String {
    shown.replacen(&format!("://{HIDDEN}@"), "://", 1)
}

/// Returns scheme, host and port of a URL whose user info is hidden.
fn origin_of(shown_url: &str) -> Option<String> {
    let url = Url::parse(&plain_url(shown_url)).ok()?;
    Some(url.origin().ascii_serialization())
}

fn check_headers(headers: &BTreeMap<String, HeaderValue>) -> Result<(), Failure> {
    let mut seen_names = HashSet::new();
    for (name, value) in headers {
        check_header(name, value)?;
        if !seen_names.insert(name.to_ascii_lowercase()) {
            return Err(Failure::invalid(format!(
                "headers has {name} twice, because upper and lower case are the same; remove one of them"
            )));
        }
    }
    Ok(())
}

fn check_header(name: &str, value: &HeaderValue) -> Result<(), Failure> {
    if !is_header_name(name) {
        return Err(Failure::invalid(
            "headers must map names of HTTP headers to texts",
        ));
    }
    if is_reserved_header(name) {
        return Err(Failure::invalid(format!(
            "headers must not set {name}, because the protocol sets it"
        )));
    }
    match value {
        HeaderValue::Plain(value) => check_header_value(name, value),
        HeaderValue::Sealed { .. } => Ok(()),
    }
}

/// Returns whether a text of at most 256 bytes can be the name of a header (RFC 9110, section 5.1).
pub fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(is_token)
}

/// Returns whether the protocol or the connection sets this header.
pub fn is_reserved_header(name: &str) -> bool {
    RESERVED_HEADERS
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// Checks the value of a header.
///
/// # Errors
/// The failure names the header and never repeats the value.
pub fn check_header_value(name: &str, value: &str) -> Result<(), Failure> {
    if value.len() > 16 * 1024
        || value
            .chars()
            .any(|character| character.is_control() && character != '\t')
    {
        return Err(Failure::invalid(format!(
            "headers.{name} must be one line of at most 16 KiB"
        )));
    }
    Ok(())
}

/// Checks that a session id is visible ASCII (MCP 2025-11-25, transports).
///
/// # Errors
/// The failure never repeats the id.
pub fn check_session_id(id: &str) -> Result<(), Failure> {
    if id.is_empty() || id.len() > 1024 || !id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(Failure::invalid(
            "sessionId must be 1 to 1024 visible ASCII characters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
