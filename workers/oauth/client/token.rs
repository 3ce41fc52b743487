//! Asks a token endpoint (RFC 6749), and tells what its answer means for the token that was used.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use super::fetch::{FetchError, HttpResponse, send};
use crate::core::model::grant::{ClientAuth, RefreshCredentials, TokenEndpoint};
use crate::workers::redact::Redactor;
use crate::workers::runtime::log_buffer::shorten;

/// A pause that is asked for is kept, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// New tokens.
#[derive(Deserialize)]
pub struct TokenResponse {
    pub access_token: Zeroizing<String>,
    #[serde(default = "bearer")]
    pub token_type: String,
    pub expires_in: Option<f64>,
    pub refresh_token: Option<Zeroizing<String>>,
    pub scope: Option<String>,
}

fn bearer() -> String {
    "Bearer".into()
}

/// What came of asking for tokens. The sentences go on after "its authorization server".
pub enum TokenOutcome {
    Tokens(TokenResponse),
    /// It gives none, and will give none.
    Refused(String),
    /// It did not look at what was asked: the same can be asked again.
    Away {
        why: String,
        pause: Option<Duration>,
    },
    /// It may have done what was asked.
    Unknown(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
    error_description: String,
}

/// Asks for new tokens in the place of old ones.
pub async fn refresh(endpoint: &TokenEndpoint, renewal: &RefreshCredentials) -> TokenOutcome {
    let refresh_token = renewal.refresh_token.as_deref().map_or("", |token| token);
    ask(
        endpoint,
        renewal,
        &[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ],
    )
    .await
}

/// Asks for tokens with the code that a browser brought.
pub async fn exchange(begun: &RefreshCredentials, code: &str) -> TokenOutcome {
    let Some(endpoint) = &begun.endpoint else {
        return TokenOutcome::Refused("has no token endpoint".into());
    };
    let verifier = begun
        .code_verifier
        .as_deref()
        .map_or("", |verifier| verifier);
    let what = [
        ("grant_type", "authorization_code"),
        ("redirect_uri", begun.redirect_uri.as_str()),
        ("code", code),
        ("code_verifier", verifier),
    ];
    ask(endpoint, begun, &what).await
}

async fn ask(
    endpoint: &TokenEndpoint,
    client: &RefreshCredentials,
    what: &[(&str, &str)],
) -> TokenOutcome {
    let Ok(url) = Url::parse(&endpoint.url) else {
        return TokenOutcome::Refused("has no token endpoint".into());
    };
    let mut headers = HeaderMap::new();
    let mut fields = what.to_vec();
    fields.push(("resource", &endpoint.resource));
    let secret = client.client_secret.as_deref().map_or("", |secret| secret);
    match endpoint.auth {
        ClientAuth::Basic => match basic(&client.client_id, secret) {
            Some(value) => drop(headers.insert(AUTHORIZATION, value)),
            None => return TokenOutcome::Refused("cannot be told the client's secret".into()),
        },
        ClientAuth::Post => fields.extend([
            ("client_id", client.client_id.as_str()),
            ("client_secret", secret),
        ]),
        ClientAuth::None => fields.push(("client_id", &client.client_id)),
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    let form = Serializer::new(String::new()).extend_pairs(fields).finish();
    let body = Bytes::from_owner(Zeroizing::new(form.into_bytes()));
    let answer = match send(Method::POST, &url, headers, body).await {
        Ok(answer) => answer,
        Err(FetchError::Unreachable(why)) => return TokenOutcome::Away { why, pause: None },
        Err(FetchError::Broken(why)) => return TokenOutcome::Unknown(why),
    };
    let body = Zeroizing::new(answer.body);
    let HttpResponse {
        status, headers, ..
    } = HttpResponse {
        body: vec![],
        ..answer
    };
    match status {
        status if status.is_success() => match serde_json::from_slice::<TokenResponse>(&body) {
            Ok(tokens) if usable(&tokens) => TokenOutcome::Tokens(tokens),
            Ok(_) => TokenOutcome::Refused("gave a token that is no bearer token".into()),
            Err(_) => TokenOutcome::Unknown("answered with something that is no tokens".into()),
        },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let pause = headers
                .get(RETRY_AFTER)
                .and_then(|pause| pause.to_str().ok()?.parse().ok());
            let pause = pause.map(|seconds| Duration::from_secs(seconds).min(LONGEST_PAUSE));
            TokenOutcome::Away {
                why: format!("answered {status}"),
                pause,
            }
        }
        status if status.is_client_error() => {
            TokenOutcome::Refused(error_text(status, &body, client, what))
        }
        status => TokenOutcome::Unknown(format!("answered {status}")),
    }
}

/// The token as a header has it.
pub fn header(tokens: &TokenResponse) -> Zeroizing<String> {
    Zeroizing::new(format!("Bearer {}", &*tokens.access_token))
}

fn usable(tokens: &TokenResponse) -> bool {
    let visible = tokens.access_token.bytes().all(|b| b.is_ascii_graphic());
    tokens.token_type.eq_ignore_ascii_case("bearer") && visible && !tokens.access_token.is_empty()
}

/// RFC 6749, section 2.3.1: both are encoded as in a form first.
fn basic(client_id: &str, secret: &str) -> Option<HeaderValue> {
    let encode = |text: &str| Zeroizing::new(byte_serialize(text.as_bytes()).collect::<String>());
    let both = Zeroizing::new(format!("{}:{}", &*encode(client_id), &*encode(secret)));
    let value = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(both.as_bytes())));
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What it says to a refusal, without anything secret of what it was told.
fn error_text(
    status: StatusCode,
    body: &[u8],
    client: &RefreshCredentials,
    what: &[(&str, &str)],
) -> String {
    let Ok(Refusal {
        error,
        error_description,
    }) = serde_json::from_slice(body)
    else {
        return format!("answered {status}");
    };
    let redactor = Redactor::default();
    let secrets = what
        .iter()
        .filter(|(name, _)| !matches!(*name, "grant_type" | "redirect_uri"))
        .map(|(_, value)| *value);
    let id = crate::core::ids::ValueId;
    for secret in secrets.chain(client.client_secret.as_ref().map(|secret| secret.as_str())) {
        redactor.hold(id(uuid::Uuid::now_v7()), secret);
    }
    let text = match error_description.as_str() {
        "" => error,
        description => format!("{error}: {description}"),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("refused: {}", shorten(&redactor.mask(&text), 300))
}
