//! Sends HTTP requests to one server, with its credentials.
//!
//! Credentials stay sealed between requests. Each request opens them, and a guard keeps them redacted while the server
//! can repeat them.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use url::Url;

use super::HttpTarget;
use crate::core::decide::grant::reauth_required;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::names::ServerName;
use crate::http_client::{HttpClient, StreamedResponse, client, describe};
use crate::workers::mcp::host::{
    AccessTokens, AppliedToken, Credentials, RedactionGuard, TokenError,
};

/// Redirects of one request that are followed.
const MAX_REDIRECTS: usize = 5;

pub struct HttpEndpoint {
    client: HttpClient,
    pub url: EndpointUrl,
    /// The headers that are no credentials.
    headers: HeaderMap,
    credentials: Arc<dyn Credentials>,
    /// The access token, which replaces an `Authorization` header.
    tokens: Option<Arc<dyn AccessTokens>>,
    server: ServerName,
}

/// A URL that is parsed once for all requests.
pub struct EndpointUrl {
    /// `***` replaces the sealed values of the query.
    pub url: Url,
    uri: Uri,
    /// The sealed values of the query belong into this URL. A redirect and an endpoint that the server names get none.
    is_configured: bool,
}

impl EndpointUrl {
    pub fn new(url: Url) -> Result<Self, SendError> {
        let uri = url
            .as_str()
            .parse()
            .map_err(|error| SendError::Refused(format!("its URL cannot be used: {error}")))?;
        Ok(Self {
            url,
            uri,
            is_configured: false,
        })
    }

    /// Parses the URL of the configuration.
    fn configured(url: Url) -> Result<Self, SendError> {
        Ok(Self {
            is_configured: true,
            ..Self::new(url)?
        })
    }
}

/// One request to the server.
pub struct HttpRequest<'a> {
    pub method: Method,
    pub url: &'a EndpointUrl,
    pub headers: &'a HeaderMap,
    pub body: Bytes,
    /// The access token was refreshed for this request already, so another refresh is of no use.
    pub token_is_fresh: bool,
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The server cannot be reached and has not received the request.
    #[error("it cannot be connected to: {0}")]
    Unreachable(String),
    /// The connection broke. The server may have executed the request.
    #[error("it broke the connection off: {0}")]
    Broken(String),
    /// The server redirects elsewhere, or the request cannot be built. The server has not executed the request.
    #[error("{0}")]
    Refused(String),
    /// The server answered with HTTP 401 and has not executed the request.
    #[error("{}", .failure.message)]
    Unauthorized {
        failure: Box<Failure>,
        token_is_fresh: bool,
    },
    /// No access token can be obtained. The server has not received the request.
    #[error("{}", .0.message)]
    Denied(Box<Failure>),
}

impl From<TokenError> for SendError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Denied(failure) => Self::Denied(failure),
            TokenError::Unreadable => Self::Refused(error.to_string()),
        }
    }
}

/// The decision after an HTTP response.
enum Next {
    /// The response is for the caller.
    Return,
    /// The token was refreshed; the request is sent again.
    Retry,
    Redirect(EndpointUrl),
}

impl HttpEndpoint {
    pub fn new(target: &HttpTarget) -> Result<Self, SendError> {
        let mut headers = target.headers.clone();
        if target.tokens.is_some() {
            headers.remove(AUTHORIZATION);
        }
        Ok(Self {
            client: client(),
            url: EndpointUrl::configured(target.url.clone())?,
            headers,
            credentials: target.credentials.clone(),
            tokens: target.tokens.clone(),
            server: target.name.clone(),
        })
    }

    /// Sends a request. Redirects within the origin keep the method and the body, because a server that redirects has not
    /// executed the request.
    pub async fn send(
        &self,
        mut request: HttpRequest<'_>,
    ) -> Result<(StreamedResponse, RedactionGuards), SendError> {
        let mut redirected = None::<EndpointUrl>;
        let mut redirects = 0;
        while redirects <= MAX_REDIRECTS {
            let url = redirected.as_ref().unwrap_or(request.url);
            let (message, guards, token) = self.build_request(&request, url).await?;
            let response = self.send_once(message).await?;
            match self.classify(&response, url, &request, token).await? {
                Next::Return => return Ok((StreamedResponse::new(response), guards)),
                Next::Retry => request.token_is_fresh = true,
                Next::Redirect(url) => {
                    redirected = Some(url);
                    redirects += 1;
                }
            }
        }
        Err(SendError::Refused(format!(
            "it redirects more than {MAX_REDIRECTS} times"
        )))
    }

    /// Builds the HTTP request with its credentials. Returns the id of the access token, if the request has one.
    async fn build_request(
        &self,
        request: &HttpRequest<'_>,
        url: &EndpointUrl,
    ) -> Result<(Request<Full<Bytes>>, RedactionGuards, Option<ValueId>), SendError> {
        let mut message = Request::new(Full::new(request.body.clone()));
        *message.method_mut() = request.method.clone();
        let mut uri = url.uri.clone();
        let headers = message.headers_mut();
        headers.clone_from(request.headers);
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        let credentials = self
            .credentials
            .apply(headers, url.is_configured.then_some(&mut uri))
            .map_err(|error| SendError::Refused(error.to_string()))?;
        let token = match &self.tokens {
            None => None,
            Some(tokens) => Some(apply_token(&**tokens, headers).await?),
        };
        *message.uri_mut() = uri;
        let id = token.as_ref().map(|token| token.id);
        let guards = RedactionGuards {
            _credentials: credentials,
            _token: token.map(|token| token.redaction),
        };
        Ok((message, guards, id))
    }

    async fn send_once(
        &self,
        message: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        self.client.request(message).await.map_err(|error| {
            let reason = describe(&error);
            if error.is_connect() {
                SendError::Unreachable(reason)
            } else {
                SendError::Broken(reason)
            }
        })
    }

    async fn classify(
        &self,
        response: &Response<Incoming>,
        url: &EndpointUrl,
        request: &HttpRequest<'_>,
        token: Option<ValueId>,
    ) -> Result<Next, SendError> {
        match response.status().as_u16() {
            401 => self.on_unauthorized(request.token_is_fresh, token).await,
            301 | 302 | 307 | 308 => redirect_target(response, url).map(Next::Redirect),
            _ => Ok(Next::Return),
        }
    }

    /// Refreshes the token once after HTTP 401.
    async fn on_unauthorized(
        &self,
        token_is_fresh: bool,
        token: Option<ValueId>,
    ) -> Result<Next, SendError> {
        let failure = match (&self.tokens, token) {
            (Some(tokens), Some(token)) if !token_is_fresh => match tokens.rejected(token).await {
                Ok(()) => return Ok(Next::Retry),
                Err(failure) => failure,
            },
            (Some(tokens), Some(token)) => tokens.rejected_again(token),
            _ if !self.has_static_credentials() => reauth_required(
                &self.server,
                None,
                "it wants a token, and none is stored for it",
            ),
            _ => return Ok(Next::Return),
        };
        Err(SendError::Unauthorized {
            failure: Box::new(failure),
            token_is_fresh,
        })
    }

    /// Whether the configuration has credentials that the server may refuse.
    pub fn has_static_credentials(&self) -> bool {
        self.credentials.can_authenticate()
    }

    /// Returns the failure for the caller if the response says that the token needs more scopes. The token stays valid.
    pub fn insufficient_scope(&self, response: &StreamedResponse) -> Option<Failure> {
        let tokens = self.tokens.as_ref()?;
        if response.status() != StatusCode::FORBIDDEN {
            return None;
        }
        tokens.insufficient_scope(response.headers())
    }
}

/// Adds the access token to the headers. Only a token that must be loaded or refreshed costs a wait.
async fn apply_token(
    tokens: &dyn AccessTokens,
    headers: &mut HeaderMap,
) -> Result<AppliedToken, TokenError> {
    match tokens.apply_current(headers)? {
        Some(token) => Ok(token),
        None => tokens.apply(headers).await,
    }
}

fn redirect_target(
    response: &Response<Incoming>,
    url: &EndpointUrl,
) -> Result<EndpointUrl, SendError> {
    let target = response
        .headers()
        .get(LOCATION)
        .and_then(|location| url.url.join(location.to_str().ok()?).ok())
        .ok_or_else(|| SendError::Refused("it redirects to no URL".into()))?;
    if target.origin() != url.url.origin() {
        return Err(SendError::Refused(format!(
            "it redirects from {} to {}, and only redirects within one origin are followed",
            url.url.origin().ascii_serialization(),
            target.origin().ascii_serialization()
        )));
    }
    EndpointUrl::new(target)
}

/// Keeps the credentials of one request redacted until it is dropped.
pub struct RedactionGuards {
    _credentials: RedactionGuard,
    _token: Option<RedactionGuard>,
}
