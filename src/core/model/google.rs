//! Servers that act for their users at Google: how to recognize them, and how to read the results of their tools.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;
use zeroize::Zeroizing;

use super::server::{ServerConfig, Transport};
use crate::core::arguments::merge::{ArgumentForm, SecretArgument, merge_arguments};
use crate::core::failure::{Code, Failure};
use crate::core::names::UserName;

/// The variable in the `env` of a stdio server that makes it a Google server.
pub const MARK: (&str, &str) = ("MCP_AUTH_TYPE", "OAUTH2_GOOGLE");
/// The prefix of the sign-in tools, which need no tokens.
const SIGN_IN_PREFIX: &str = "auth_";
/// The tool that returns the URL of the consent page.
pub const GET_URL: &str = "auth_get_authorization_url";
/// The tool that exchanges the code of the consent page for tokens.
pub const EXCHANGE: &str = "auth_exchange_code";
/// The argument that holds the user's tokens.
pub const TOKENS: &str = "userCredentials";
/// The argument that holds the credentials of this deployment at Google.
pub const APPLICATION: &str = "gauthFileContent";
/// The largest number of wrappers around the value in a tool result.
const MAX_WRAPPERS: usize = 4;
/// The largest size of stored tokens in bytes.
const MAX_TOKENS_SIZE: usize = 64 * 1024;

/// Returns true if the server acts for its users at Google.
pub fn is_marked(config: &ServerConfig) -> bool {
    match &config.transport {
        Transport::Stdio { env, .. } => env.get(MARK.0).is_some_and(|value| value == MARK.1),
        Transport::StreamableHttp(_) => false,
    }
}

/// Returns true if a call of the tool needs the user's tokens.
pub fn needs_tokens(config: &ServerConfig, tool: &str) -> bool {
    is_marked(config) && !tool.starts_with(SIGN_IN_PREFIX)
}

/// The arguments of the tool [`EXCHANGE`].
#[derive(Serialize)]
pub struct ExchangeArgs<'a> {
    pub code: &'a str,
    pub state: &'a str,
}

/// Returns the user in a `state`. The server has created the state, and Google has returned it unchanged.
pub fn user_in_state(state: &str) -> Option<UserName> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct State<'a> {
        #[serde(borrow)]
        user_id: Cow<'a, str>,
    }
    if !is_object(state) {
        return None;
    }
    let state: State = serde_json::from_str(state).ok()?;
    state.user_id.parse().ok()
}

/// Returns the consent page in the result of the tool [`GET_URL`], and the `state` in its URL.
///
/// # Errors
/// Fails if the result has no https URL, or if the `state` in the URL does not name the user.
pub fn consent(result: &[u8], user: &UserName) -> Result<(Url, String), Failure> {
    let bad_result = |problem: &str| {
        Failure::new(
            Code::UpstreamError,
            format!("The tool {GET_URL} of the server returned {problem}"),
        )
    };
    let url = parse_tool_result(GET_URL, result, &parse_url)?
        .ok_or_else(|| bad_result("no https URL"))?;
    let state = url
        .query_pairs()
        .find_map(|(name, value)| (name == "state").then(|| value.into_owned()))
        .ok_or_else(|| bad_result("a URL without a state"))?;
    if user_in_state(&state).as_ref() != Some(user) {
        return Err(bad_result(
            "a URL whose state is not JSON with the user as userId",
        ));
    }
    Ok((url, state))
}

/// Returns the tokens in the result of the tool [`EXCHANGE`]: a JSON object in the spelling of the server.
///
/// # Errors
/// Fails if the result has no access token.
pub fn tokens(result: &[u8]) -> Result<Zeroizing<String>, Failure> {
    let found = parse_tool_result(EXCHANGE, result, &|json| {
        (json.len() <= MAX_TOKENS_SIZE && Tokens::parse(json).is_some())
            .then(|| Zeroizing::new(json.trim().to_owned()))
    })?;
    found.ok_or_else(|| {
        Failure::new(
            Code::UpstreamError,
            format!("The tool {EXCHANGE} of the server returned no access_token"),
        )
    })
}

/// Returns the new tokens with the old refresh token, if they have none. Google issues a refresh token at the first
/// consent only.
pub fn keep_refresh_token(new: Zeroizing<String>, old: &str) -> Zeroizing<String> {
    let refresh_token = |json| {
        let tokens: Tokens = Tokens::parse(json)?;
        tokens.refresh_token.filter(|token| is_text(token))
    };
    if refresh_token(&new).is_some() {
        return new;
    }
    let Some(token) = refresh_token(old) else {
        return new;
    };
    // A vector that grows would leave a copy of the tokens in memory.
    let mut merged = Zeroizing::new(Vec::with_capacity(new.len() + token.get().len() + 32));
    let argument = SecretArgument {
        name: "refresh_token",
        value: token.get(),
        form: ArgumentForm::Json,
    };
    merge_arguments(&mut merged, &new, &[argument]);
    String::from_utf8(std::mem::take(&mut *merged)).map_or(new, Zeroizing::new)
}

/// Returns the parts of tokens or of an application's credentials that no log may show.
pub fn secret_parts(json: &str) -> Vec<Zeroizing<String>> {
    let mut found = Vec::new();
    collect_secret_parts(json, MAX_WRAPPERS, &mut found);
    found
}

fn collect_secret_parts(json: &str, depth: usize, found: &mut Vec<Zeroizing<String>>) {
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else {
        return;
    };
    for (name, value) in members {
        match name.as_str() {
            "access_token" | "refresh_token" | "id_token" | "client_secret" => {
                found.extend(serde_json::from_str::<Zeroizing<String>>(value.get()).ok());
            }
            _ if depth > 0 && is_object(value.get()) => {
                collect_secret_parts(value.get(), depth - 1, found);
            }
            _ => {}
        }
    }
}

/// The fields of tokens that the program reads.
#[derive(Deserialize)]
struct Tokens<'a> {
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh_token: Option<&'a RawValue>,
}

impl<'a> Tokens<'a> {
    /// Returns `None` if the JSON has no access token.
    fn parse(json: &'a str) -> Option<Self> {
        if !is_object(json) {
            return None;
        }
        let tokens: Self = serde_json::from_str(json).ok()?;
        tokens.access_token.is_some_and(is_text).then_some(tokens)
    }
}

/// Returns the https URL in a text, or in an object with one of the usual names for it.
fn parse_url(text: &str) -> Option<Url> {
    #[derive(Deserialize)]
    struct UrlField {
        #[serde(
            alias = "authorization_url",
            alias = "authorizationUrl",
            alias = "auth_url",
            alias = "authUrl"
        )]
        url: String,
    }
    if is_object(text) {
        return parse_url(&serde_json::from_str::<UrlField>(text).ok()?.url);
    }
    let url = Url::parse(text.trim()).ok()?;
    // A test server on the same machine has no certificate.
    let is_local = url.scheme() == "http"
        && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    (url.scheme() == "https" || is_local).then_some(url)
}

/// The fields of a CallToolResult that the program reads. `null` means absent.
#[derive(Deserialize)]
struct GoogleToolResult<'a> {
    #[serde(borrow)]
    content: Option<Vec<Option<Block<'a>>>>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(rename = "isError")]
    is_error: Option<bool>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// Returns the first value in a tool result that `parse` accepts. Servers return a value as structured content, as a
/// text, or as JSON in a text.
///
/// # Errors
/// Fails if the result is no tool result, or if the tool reports a failure.
fn parse_tool_result<T>(
    tool: &str,
    result: &[u8],
    parse: &impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let result: GoogleToolResult = serde_json::from_slice(result).map_err(|_| {
        Failure::new(
            Code::UpstreamError,
            format!("The tool {tool} of the server returned JSON that is no tool result"),
        )
    })?;
    let blocks = result.content.as_deref().unwrap_or_default();
    let texts = blocks.iter().flatten().filter_map(|block| block.text);
    if result.is_error == Some(true) {
        let text = texts
            .clone()
            .find_map(|text| serde_json::from_str::<String>(text.get()).ok());
        let message = format!("The tool {tool} of the server reports a failure");
        return Err(Failure::new(Code::UpstreamError, message).with_details(text));
    }
    Ok(result
        .structured
        .into_iter()
        .chain(texts)
        .find_map(|value| unwrap_value(value.get(), MAX_WRAPPERS, parse)))
}

/// Returns the value that `parse` accepts, from at most `depth` wrappers around it.
fn unwrap_value<T>(json: &str, depth: usize, parse: &impl Fn(&str) -> Option<T>) -> Option<T> {
    /// The wrappers that libraries and servers use.
    #[derive(Deserialize)]
    struct Wrapper<'a> {
        #[serde(borrow, alias = "tokens")]
        result: &'a RawValue,
    }
    if let Some(value) = parse(json) {
        return Some(value);
    }
    let depth = depth.checked_sub(1)?;
    if is_object(json) {
        let wrapper: Wrapper = serde_json::from_str(json).ok()?;
        return unwrap_value(wrapper.result.get(), depth, parse);
    }
    let text = serde_json::from_str::<Zeroizing<String>>(json).ok()?;
    unwrap_value(&text, depth, parse)
}

fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// Returns true for a string that is not empty.
fn is_text(json: &RawValue) -> bool {
    json.get().len() > 2 && json.get().starts_with('"')
}

#[cfg(test)]
mod tests;
