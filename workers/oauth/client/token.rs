//! Sends token requests (RFC 6749), and classifies the responses by their effect on the refresh token.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::fetch::{FetchError, Fetcher, HttpResponse, error_text};
use super::lenient::LenientText;
use super::shorten;
use crate::core::ids::ValueId;
use crate::core::model::grant::{ClientAuth, RefreshCredentials, TokenEndpoint};
use crate::workers::redact::Redactor;

/// The longest pause that a `Retry-After` header can cause.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);
/// The longest text of an authorization server in an error, in bytes.
const MAX_REASON: usize = 300;
/// Fields of a token request that are not secret.
const SHOWN_FIELDS: [&str; 3] = ["grant_type", "redirect_uri", "resource"];

/// New tokens.
pub struct TokenResponse {
    pub access_token: Zeroizing<String>,
    /// The life of the access token in seconds.
    pub expires_in: Option<u64>,
    /// Absent if the old refresh token stays valid.
    pub refresh_token: Option<Zeroizing<String>>,
    /// Absent if the scopes are those of the request.
    pub scopes: Option<Vec<String>>,
}

/// The result of a token request. The sentences continue after "its authorization server".
pub enum TokenOutcome {
    Tokens(TokenResponse),
    /// The authorization server issues no tokens for this request, now or later.
    Refused {
        reason: String,
        /// The refusal may concern the parameter `resource` (RFC 8707).
        may_concern_resource: bool,
    },
    /// The authorization server has not executed the request, so the worker may send it again.
    RetryLater {
        reason: String,
        pause: Option<Duration>,
    },
    /// The authorization server may have executed the request.
    Indeterminate(String),
}

/// A token response or an error response as servers send it (RFC 6749, sections 5.1 and 5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenBody {
    access_token: LenientText,
    token_type: LenientText,
    expires_in: LenientText,
    refresh_token: LenientText,
    scope: LenientText,
    error: LenientText,
    error_description: LenientText,
}

/// One token request.
struct TokenRequest<'a> {
    fetcher: Fetcher,
    endpoint: &'a TokenEndpoint,
    client: &'a RefreshCredentials,
    fields: Vec<(&'a str, &'a str)>,
}

impl TokenResponse {
    /// Returns the value of the `Authorization` header.
    pub fn authorization_header(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.access_token.as_str()))
    }
}

/// Requests new tokens with the refresh token. If the refusal may concern `resource`, sends one more
/// request without it, because some authorization servers refuse this parameter. `endpoint` then
/// remembers that a request without it succeeded.
pub async fn refresh(
    fetcher: Fetcher,
    endpoint: &mut TokenEndpoint,
    credentials: &RefreshCredentials,
) -> TokenOutcome {
    let outcome = request_refresh(fetcher, endpoint, credentials).await;
    let may_retry = matches!(
        outcome,
        TokenOutcome::Refused {
            may_concern_resource: true,
            ..
        }
    );
    if !may_retry || endpoint.omit_resource {
        return outcome;
    }
    let without_resource = TokenEndpoint {
        omit_resource: true,
        ..endpoint.clone()
    };
    let outcome = request_refresh(fetcher, &without_resource, credentials).await;
    if matches!(outcome, TokenOutcome::Tokens(_)) {
        *endpoint = without_resource;
    }
    outcome
}

async fn request_refresh(
    fetcher: Fetcher,
    endpoint: &TokenEndpoint,
    credentials: &RefreshCredentials,
) -> TokenOutcome {
    let request = TokenRequest {
        fetcher,
        endpoint,
        client: credentials,
        fields: vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", text(credentials.refresh_token.as_ref())),
        ],
    };
    request.send().await
}

/// Requests tokens with the code that a browser has brought.
pub async fn exchange(
    fetcher: Fetcher,
    credentials: &RefreshCredentials,
    code: &str,
) -> TokenOutcome {
    let Some(endpoint) = &credentials.endpoint else {
        return refused("has no token endpoint".into());
    };
    let request = TokenRequest {
        fetcher,
        endpoint,
        client: credentials,
        fields: vec![
            ("grant_type", "authorization_code"),
            ("redirect_uri", credentials.redirect_uri.as_str()),
            ("code", code),
            ("code_verifier", text(credentials.code_verifier.as_ref())),
        ],
    };
    request.send().await
}

fn text(secret: Option<&Zeroizing<String>>) -> &str {
    secret.map_or("", |secret| secret.as_str())
}

fn refused(reason: String) -> TokenOutcome {
    TokenOutcome::Refused {
        reason,
        may_concern_resource: false,
    }
}

impl TokenRequest<'_> {
    async fn send(mut self) -> TokenOutcome {
        let Ok(url) = Url::parse(&self.endpoint.url) else {
            return refused("has no token endpoint".into());
        };
        if !self.endpoint.omit_resource {
            self.fields.push(("resource", &self.endpoint.resource));
        }
        let Some(headers) = self.authenticate_client() else {
            return refused("has a client secret that cannot be sent".into());
        };
        let form = Serializer::new(String::new())
            .extend_pairs(&self.fields)
            .finish();
        let body = Bytes::from_owner(Zeroizing::new(form.into_bytes()));
        match self.fetcher.send(Method::POST, &url, headers, body).await {
            Ok(response) => self.classify(&response),
            Err(error) => outcome_without_response(&error),
        }
    }

    /// Returns the headers, and adds the fields that show which client sends the request.
    fn authenticate_client(&mut self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let client_id = self.client.client_id.as_str();
        let secret = text(self.client.client_secret.as_ref());
        match self.endpoint.auth {
            ClientAuth::Basic => {
                headers.insert(AUTHORIZATION, basic_credentials(client_id, secret)?);
            }
            ClientAuth::Post => {
                self.fields.push(("client_id", client_id));
                self.fields.push(("client_secret", secret));
            }
            ClientAuth::None => self.fields.push(("client_id", client_id)),
        }
        Some(headers)
    }

    fn classify(&self, response: &HttpResponse) -> TokenOutcome {
        let status = response.status;
        let json = response.body.trim_ascii_start();
        let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
        let body = serde_json::from_slice::<TokenBody>(json).ok();
        if status.is_success() {
            return self.classify_success(body);
        }
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            return TokenOutcome::RetryLater {
                reason: format!("responded with {status}"),
                pause: retry_after(&response.headers),
            };
        }
        if status.is_client_error() {
            return match body.filter(|body| body.error.as_str().is_some()) {
                Some(body) => self.classify_error(status, &body),
                None => refused(format!("responded with {status}")),
            };
        }
        TokenOutcome::Indeterminate(format!("responded with {status}"))
    }

    fn classify_success(&self, body: Option<TokenBody>) -> TokenOutcome {
        let Some(body) = body else {
            return TokenOutcome::Indeterminate(
                "responded with something that is not a token response".into(),
            );
        };
        let is_bearer = body
            .token_type
            .as_str()
            .is_none_or(|kind| kind.trim().eq_ignore_ascii_case("bearer"));
        match body.access_token.as_str() {
            Some(token) if is_bearer && token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                TokenOutcome::Tokens(body.into_tokens())
            }
            Some(_) => refused("gave a token that is no bearer token".into()),
            // Some authorization servers send a refusal with status 200.
            None if body.error.as_str().is_some() => self.classify_error(StatusCode::OK, &body),
            None => TokenOutcome::Indeterminate("responded without an access token".into()),
        }
    }

    fn classify_error(&self, status: StatusCode, body: &TokenBody) -> TokenOutcome {
        let reason = format!("refused: {}", self.redacted_error(body));
        let error = body.error.as_str().unwrap_or_default();
        if matches!(error, "temporarily_unavailable" | "slow_down") {
            return TokenOutcome::RetryLater {
                reason,
                pause: None,
            };
        }
        TokenOutcome::Refused {
            reason,
            may_concern_resource: status == StatusCode::BAD_REQUEST
                && matches!(error, "invalid_target" | "invalid_request"),
        }
    }

    /// Returns the text of an error response without the secrets of the request.
    fn redacted_error(&self, body: &TokenBody) -> String {
        let redactor = Redactor::default();
        let hidden_fields = self
            .fields
            .iter()
            .filter(|(name, _)| !SHOWN_FIELDS.contains(name))
            .map(|(_, value)| *value);
        let secret = text(self.client.client_secret.as_ref());
        for value in hidden_fields
            .chain([secret])
            .filter(|value| !value.is_empty())
        {
            redactor.hold(ValueId(Uuid::now_v7()), value);
        }
        let error = body.error.as_str().unwrap_or_default();
        let text = match body.error_description.as_str() {
            Some(description) => format!("{error}: {description}"),
            None => error.to_owned(),
        };
        let text: String = text
            .chars()
            .filter(|character| !character.is_control())
            .collect();
        shorten(&redactor.mask(&text), MAX_REASON).to_owned()
    }
}

impl TokenBody {
    fn into_tokens(self) -> TokenResponse {
        let seconds = self
            .expires_in
            .as_str()
            .and_then(|seconds| seconds.trim().parse::<f64>().ok())
            .filter(|seconds| !seconds.is_nan());
        let scopes = self
            .scope
            .as_str()
            .map(|scopes| scopes.split_ascii_whitespace().map(str::to_owned).collect());
        TokenResponse {
            access_token: self.access_token.into_text().unwrap_or_default(),
            expires_in: seconds.map(|seconds| seconds.max(0.0) as u64),
            refresh_token: self.refresh_token.into_text(),
            scopes,
        }
    }
}

fn outcome_without_response(error: &FetchError) -> TokenOutcome {
    let reason = error_text(error);
    if error.may_have_run() {
        TokenOutcome::Indeterminate(reason)
    } else {
        TokenOutcome::RetryLater {
            reason,
            pause: None,
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Returns Basic credentials. Both parts are encoded as in a form first (RFC 6749, section 2.3.1).
fn basic_credentials(client_id: &str, secret: &str) -> Option<HeaderValue> {
    let encode = |text: &str| Zeroizing::new(byte_serialize(text.as_bytes()).collect::<String>());
    let pair = Zeroizing::new(format!(
        "{}:{}",
        encode(client_id).as_str(),
        encode(secret).as_str()
    ));
    let text = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, body: &str) -> TokenOutcome {
        let endpoint = TokenEndpoint {
            url: "https://as.example/token".into(),
            auth: ClientAuth::None,
            resource: "https://mcp.example/".into(),
            omit_resource: false,
        };
        let client = RefreshCredentials {
            refresh_token: None,
            client_id: "client".into(),
            client_secret: None,
            redirect_uri: "https://p.example/".into(),
            code_verifier: None,
            scopes: vec![],
            endpoint: None,
        };
        let request = TokenRequest {
            fetcher: Fetcher::default(),
            endpoint: &endpoint,
            client: &client,
            fields: vec![("refresh_token", "a-refresh-token")],
        };
        request.classify(&HttpResponse {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        })
    }

    fn tokens(body: &str) -> TokenResponse {
        match classify(200, body) {
            TokenOutcome::Tokens(tokens) => tokens,
            TokenOutcome::Refused { reason, .. }
            | TokenOutcome::RetryLater { reason, .. }
            | TokenOutcome::Indeterminate(reason) => panic!("{body}: {reason}"),
        }
    }

    #[test]
    fn unusual_token_responses_lose_no_tokens() {
        for (body, expires_in) in [
            (
                r#"{"access_token":"a","refresh_token":"r","expires_in":"5250"}"#,
                Some(5250),
            ),
            (
                r#"{"access_token":"a","refresh_token":"r","expires_in":3599.7}"#,
                Some(3599),
            ),
            (
                r#"{"access_token":"a","refresh_token":"r","expires_in":null}"#,
                None,
            ),
            (
                r#"{"access_token":"a","refresh_token":"r","expires_in":"soon"}"#,
                None,
            ),
            (
                r#"{"access_token":"a","refresh_token":"r","token_type":null,"error":null}"#,
                None,
            ),
            (
                r#"{"access_token":"a","refresh_token":"r","token_type":"bearer "}"#,
                None,
            ),
            (
                "\u{feff}{\"access_token\":\"a\",\"refresh_token\":\"r\",\"id\":{\"x\":[1]}}",
                None,
            ),
        ] {
            let tokens = tokens(body);
            assert_eq!(tokens.expires_in, expires_in, "{body}");
            assert_eq!(tokens.access_token.as_str(), "a", "{body}");
            assert_eq!(text(tokens.refresh_token.as_ref()), "r", "{body}");
        }
        for (body, scopes) in [
            (
                r#"{"access_token":"a","scope":["x","y z",null]}"#,
                Some(vec!["x", "y", "z"]),
            ),
            (
                r#"{"access_token":"a","scope":"x y","refresh_token":""}"#,
                Some(vec!["x", "y"]),
            ),
            (
                r#"{"access_token":"a","scope":null,"refresh_token":null}"#,
                None,
            ),
        ] {
            let tokens = tokens(body);
            let found = tokens.scopes.as_ref();
            let found: Option<Vec<_>> = found.map(|all| all.iter().map(String::as_str).collect());
            assert_eq!(found, scopes, "{body}");
            assert!(tokens.refresh_token.is_none(), "{body}");
        }
    }

    #[test]
    fn a_refusal_is_a_refusal_with_every_status() {
        let refusal = r#"{"error":"bad_refresh_token","error_description":"no a-refresh-token"}"#;
        for status in [200, 400, 401] {
            let TokenOutcome::Refused {
                reason,
                may_concern_resource,
            } = classify(status, refusal)
            else {
                panic!("{status}");
            };
            assert_eq!(reason, "refused: bad_refresh_token: no ***");
            assert!(!may_concern_resource);
        }
        for (status, error, may_concern) in [
            (400, "invalid_target", true),
            (400, "invalid_request", true),
            (401, "invalid_target", false),
            (400, "invalid_grant", false),
        ] {
            let outcome = classify(status, &format!(r#"{{"error":"{error}"}}"#));
            let TokenOutcome::Refused {
                may_concern_resource,
                ..
            } = outcome
            else {
                panic!("{status} {error}");
            };
            assert_eq!(may_concern_resource, may_concern, "{status} {error}");
        }
        let later = classify(400, r#"{"error":"temporarily_unavailable"}"#);
        assert!(matches!(later, TokenOutcome::RetryLater { .. }));
        for unclear in ["{}", "<html>", r#"{"access_token":null}"#] {
            assert!(
                matches!(classify(200, unclear), TokenOutcome::Indeterminate(_)),
                "{unclear}"
            );
        }
    }
}
