//! Servers that act for their users at Google: which they are, what their tools say, and whose tokens are kept.

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

/// What a stdio server has in its `env` to be one of these.
pub const MARK: (&str, &str) = ("MCP_AUTH_TYPE", "OAUTH2_GOOGLE");
/// Tools whose names begin so are for the sign-in itself and need no tokens.
const SIGN_IN: &str = "auth_";
/// Gives the URL of the page where a user consents.
pub const GET_URL: &str = "auth_get_authorization_url";
/// Gives tokens for the code that the page has led to.
pub const EXCHANGE: &str = "auth_exchange_code";
/// The argument that becomes the user's tokens.
pub const TOKENS: &str = "userCredentials";
/// The argument that becomes what Google knows the deployment by.
pub const APPLICATION: &str = "gauthFileContent";
/// How deep an answer may be wrapped.
const WRAPPED: usize = 4;
/// Bytes of tokens that are kept.
const LARGEST: usize = 64 * 1024;

pub fn is_marked(config: &ServerConfig) -> bool {
    match &config.transport {
        Transport::Stdio { env, .. } => env.get(MARK.0).is_some_and(|value| value == MARK.1),
        Transport::StreamableHttp(_) => false,
    }
}

/// Whether a call of that tool needs the user's tokens.
pub fn needs_tokens(config: &ServerConfig, tool: &str) -> bool {
    is_marked(config) && !tool.starts_with(SIGN_IN)
}

/// What the exchange is asked with.
#[derive(Serialize)]
pub struct ExchangeArgs<'a> {
    pub code: &'a str,
    pub state: &'a str,
}

/// The user that a `state` names: its server made it, and Google gave it back.
pub fn user_in_state(state: &str) -> Option<UserName> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct State<'a> {
        #[serde(borrow)]
        user_id: Cow<'a, str>,
    }
    is_object(state)
        .then(|| {
            serde_json::from_str::<State>(state)
                .ok()?
                .user_id
                .parse()
                .ok()
        })
        .flatten()
}

/// Where a user consents, as the server's tool said it, and the `state` that will come back from there.
pub fn consent(result: &[u8], user: &UserName) -> Result<(Url, String), Failure> {
    let wrong = |what: &str| {
        Failure::new(
            Code::UpstreamError,
            format!("The tool {GET_URL} of the server {what}"),
        )
    };
    let url =
        parse_tool_result(GET_URL, result, &url_in)?.ok_or_else(|| wrong("gave no https URL"))?;
    let state = url
        .query_pairs()
        .find_map(|(name, value)| (name == "state").then(|| value.into_owned()));
    let state = state.ok_or_else(|| wrong("gave a URL without a state"))?;
    if user_in_state(&state).as_ref() != Some(user) {
        return Err(wrong(
            "gave a URL whose state is not JSON with the user as userId",
        ));
    }
    Ok((url, state))
}

/// The tokens that the server got for a code: a JSON object, as it said it.
pub fn tokens(result: &[u8]) -> Result<Zeroizing<String>, Failure> {
    let found = parse_tool_result(EXCHANGE, result, &|json| {
        (json.len() <= LARGEST && Tokens::of(json).is_some())
            .then(|| Zeroizing::new(json.trim().to_owned()))
    })?;
    found.ok_or_else(|| {
        Failure::new(
            Code::UpstreamError,
            format!("The tool {EXCHANGE} of the server gave no access_token"),
        )
    })
}

/// Google gives a refresh token at the first consent only: one that was kept goes on being kept.
pub fn keep_refresh_token(new: Zeroizing<String>, old: &str) -> Zeroizing<String> {
    let refresh = |json| {
        Tokens::of(json)
            .and_then(|tokens| tokens.refresh_token)
            .filter(|token| is_text(token))
    };
    match (refresh(&new), refresh(old)) {
        (None, Some(token)) => {
            // Growing would leave a copy behind.
            let mut merged = Zeroizing::new(Vec::with_capacity(new.len() + token.get().len() + 32));
            merge_arguments(
                &mut merged,
                &new,
                &[SecretArgument {
                    name: "refresh_token",
                    value: token.get(),
                    form: ArgumentForm::Json,
                }],
            );
            String::from_utf8(std::mem::take(&mut *merged)).map_or(new, Zeroizing::new)
        }
        _ => new,
    }
}

/// The parts of tokens, or of an application's credentials, that nobody may read in a log.
pub fn secret_parts(json: &str) -> Vec<Zeroizing<String>> {
    let mut found = Vec::new();
    collect(json, WRAPPED, &mut found);
    found
}

fn collect(json: &str, depth: usize, found: &mut Vec<Zeroizing<String>>) {
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else {
        return;
    };
    for (name, value) in members {
        match name.as_str() {
            "access_token" | "refresh_token" | "id_token" | "client_secret" => {
                found.extend(serde_json::from_str::<Zeroizing<String>>(value.get()).ok());
            }
            _ if depth > 0 && is_object(value.get()) => collect(value.get(), depth - 1, found),
            _ => {}
        }
    }
}

/// What of tokens is looked at, read where it lies.
#[derive(Deserialize)]
struct Tokens<'a> {
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh_token: Option<&'a RawValue>,
}

impl<'a> Tokens<'a> {
    fn of(json: &'a str) -> Option<Self> {
        let tokens = is_object(json)
            .then(|| serde_json::from_str::<Self>(json).ok())
            .flatten()?;
        tokens.access_token.is_some_and(is_text).then_some(tokens)
    }
}

fn url_in(text: &str) -> Option<Url> {
    /// The names under which servers give it.
    #[derive(Deserialize)]
    struct Named {
        #[serde(
            alias = "authorization_url",
            alias = "authorizationUrl",
            alias = "auth_url",
            alias = "authUrl"
        )]
        url: String,
    }
    if is_object(text) {
        return url_in(&serde_json::from_str::<Named>(text).ok()?.url);
    }
    let url = Url::parse(text.trim()).ok()?;
    // For a stand-in on the same machine.
    let here = || {
        url.scheme() == "http"
            && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
    };
    (url.scheme() == "https" || here()).then_some(url)
}

/// A CallToolResult, read where it lies.
#[derive(Deserialize)]
struct GoogleToolResult<'a> {
    #[serde(borrow, default)]
    content: Vec<Block<'a>>,
    #[serde(borrow, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(rename = "isError", default)]
    is_error: bool,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// What fits of a tool's answer, in whichever form it gave that: structured, as text, or as JSON in a text.
fn parse_tool_result<T>(
    tool: &str,
    result: &[u8],
    fits: &impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let answer: GoogleToolResult = serde_json::from_slice(result).map_err(|_| {
        Failure::new(
            Code::UpstreamError,
            format!("The tool {tool} of the server answered with no tool result"),
        )
    })?;
    let texts = answer.content.iter().filter_map(|block| block.text);
    if answer.is_error {
        let text = texts
            .clone()
            .find_map(|text| serde_json::from_str::<String>(text.get()).ok());
        let refused = format!("The tool {tool} of the server says that it failed");
        return Err(Failure::new(Code::UpstreamError, refused).with_details(text));
    }
    Ok(answer
        .structured
        .into_iter()
        .chain(texts)
        .find_map(|value| look(value.get(), WRAPPED, fits)))
}

fn look<T>(json: &str, depth: usize, fits: &impl Fn(&str) -> Option<T>) -> Option<T> {
    /// How libraries and servers wrap an answer.
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow, alias = "tokens")]
        result: &'a RawValue,
    }
    if let Some(found) = fits(json) {
        return Some(found);
    }
    let depth = depth.checked_sub(1)?;
    if is_object(json) {
        return look(
            serde_json::from_str::<Wrapped>(json).ok()?.result.get(),
            depth,
            fits,
        );
    }
    let text = serde_json::from_str::<Zeroizing<String>>(json).ok()?;
    look(&text, depth, fits)
}

fn is_object(json: &str) -> bool {
    json.trim_start().starts_with('{')
}

/// A string that is not empty.
fn is_text(json: &RawValue) -> bool {
    json.get().len() > 2 && json.get().starts_with('"')
}

#[cfg(test)]
mod tests;
