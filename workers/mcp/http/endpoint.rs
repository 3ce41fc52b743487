//! Where a server is: its URL, what it is told with every request, and what went wrong on the way, in a sentence.
//!
//! Credentials stay sealed between requests; each request opens them, and the masker hides them in whatever the
//! server says then.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, StatusCode, Uri};
use url::Url;
use zeroize::Zeroizing;

use crate::core::catalog::server::Server;
use crate::core::decide::grant::reauth_required;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::grant::GrantId;
use crate::core::model::remote::{HeaderValue as Header, Remote, plain_url};
use crate::core::names::ServerName;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::crypto::seal::{Opener, Plaintext};
use crate::ports::vault::Sealed;
use crate::workers::http_client::{HttpClient, StreamedResponse, client, describe};
use crate::workers::oauth::client::parameter;
use crate::workers::oauth::token_source::{SealedToken, TokenSource};
use crate::workers::redact::Redactor;
use crate::workers::runtime::remote_state::RemoteState;

/// Redirects that are followed, all within one origin.
const REDIRECTS: usize = 5;

pub struct HttpEndpoint {
    client: HttpClient,
    pub place: EndpointUrl,
    headers: HeaderMap,
    credentials: Vec<SealedHeader>,
    /// The token of a grant, in the place of what the headers say.
    bearer: Option<TokenSource>,
    server: ServerId,
    name: ServerName,
    opener: Opener,
    redactor: Arc<Redactor>,
}

/// A URL, parsed once for all requests.
pub struct EndpointUrl {
    pub url: Url,
    uri: Uri,
}

impl EndpointUrl {
    pub fn new(url: Url) -> Result<Self, String> {
        let uri = url
            .as_str()
            .parse()
            .map_err(|error| format!("its URL cannot be used: {error}"))?;
        Ok(Self { url, uri })
    }
}

struct SealedHeader {
    header: HeaderName,
    kind: ServerValueKind,
    value: ValueId,
    sealed: Sealed,
}

/// Why there is no answer to a request.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was begun: the server cannot be reached.
    Unreachable(String),
    /// It was begun, and may have been done.
    Broken(String),
    /// It points elsewhere, or cannot be asked at all; nothing was begun.
    Refused(String),
    /// Access to it has to be given first, or cannot be had at the moment; nothing was begun.
    Denied(Box<Failure>),
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        Self::Denied(Box::new(failure))
    }
}

impl HttpEndpoint {
    /// Looks up what the URL and the headers need; nothing is sent yet.
    pub async fn open(
        server: &Server,
        remote: &Remote,
        memory: &RemoteState,
        redactor: Arc<Redactor>,
    ) -> Result<Self, String> {
        let url = Url::parse(&plain_url(&remote.url))
            .map_err(|error| format!("its URL cannot be used: {error}"))?;
        let bearer = server.grant(memory.user.as_ref()).map(|_| {
            let id = GrantId {
                server: server.id,
                user: memory.user.clone(),
            };
            TokenSource::new(
                memory.grants.clone(),
                memory.sealed_store.clone(),
                id,
                server.name.clone(),
            )
        });
        let (mut headers, mut credentials) = (HeaderMap::new(), Vec::new());
        for (name, value) in &remote.headers {
            let header: HeaderName = name
                .parse()
                .map_err(|_| format!("{name} cannot be a header"))?;
            if bearer.is_some() && header == AUTHORIZATION {
                continue;
            }
            match value {
                Header::Plain(value) => {
                    let value = HeaderValue::from_str(value)
                        .map_err(|_| format!("{name} has no value of a header"))?;
                    headers.insert(header, value);
                }
                Header::Sealed { sealed: value } => {
                    let sealed = memory.sealed_store.sealed(*value).await?;
                    credentials.push(SealedHeader {
                        header,
                        kind: ServerValueKind::Header,
                        value: *value,
                        sealed,
                    });
                }
            }
        }
        // A header that says it wins over the URL.
        if let Some(value) = remote.user_info
            && bearer.is_none()
            && !credentials
                .iter()
                .any(|credential| credential.header == AUTHORIZATION)
        {
            let sealed = memory.sealed_store.sealed(value).await?;
            credentials.push(SealedHeader {
                header: AUTHORIZATION,
                kind: ServerValueKind::UserInfo,
                value,
                sealed,
            });
        }
        let (opener, place, name) = (
            memory.sealed_store.opener.clone(),
            EndpointUrl::new(url)?,
            server.name.clone(),
        );
        Ok(Self {
            client: client(),
            place,
            headers,
            credentials,
            bearer,
            server: server.id,
            name,
            opener,
            redactor,
        })
    }

    /// Sends one request. Redirects are followed within the origin, with the same method and body: whoever
    /// redirects has not begun.
    pub async fn send(
        &self,
        method: Method,
        to: &EndpointUrl,
        own: &HeaderMap,
        body: Bytes,
    ) -> Result<(StreamedResponse, RedactionGuard), SendError> {
        let (mut moved, mut redirects, mut renewed) = (None::<EndpointUrl>, 0, false);
        while redirects <= REDIRECTS {
            let to = moved.as_ref().unwrap_or(to);
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = to.uri.clone();
            request.headers_mut().clone_from(own);
            request.headers_mut().extend(
                self.headers
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
            let token = match &self.bearer {
                Some(bearer) => Some((bearer, bearer.token().await?)),
                None => None,
            };
            let hidden = self
                .authorize(request.headers_mut(), token.as_ref())
                .map_err(SendError::Refused)?;
            let response = self.client.request(request).await.map_err(|error| {
                let what = describe(&error);
                match error.is_connect() {
                    true => SendError::Unreachable(format!("it cannot be connected to: {what}")),
                    false => SendError::Broken(what),
                }
            })?;
            if response.status() == StatusCode::UNAUTHORIZED {
                match token {
                    // It was refused before it was begun, and is sent again with a newer token, once.
                    Some((bearer, token)) if !renewed => {
                        bearer.refused(&token).await?;
                        renewed = true;
                        continue;
                    }
                    Some((bearer, token)) => return Err(bearer.mark_rejected(&token).into()),
                    None if self.credentials.is_empty() => {
                        return Err(reauth_required(
                            &self.name,
                            None,
                            "it wants a token, and none is stored for it",
                        )
                        .into());
                    }
                    None => {}
                }
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok((StreamedResponse::new(response), hidden));
            }
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|next| to.url.join(next.to_str().ok()?).ok());
            let next = next.ok_or_else(|| SendError::Refused("it redirects to no URL".into()))?;
            if next.origin() != to.url.origin() {
                let (from, to) = (
                    to.url.origin().ascii_serialization(),
                    next.origin().ascii_serialization(),
                );
                return Err(SendError::Refused(format!(
                    "it redirects from {from} to {to}, and only redirects within one origin are followed"
                )));
            }
            moved = Some(EndpointUrl::new(next).map_err(SendError::Refused)?);
            redirects += 1;
        }
        Err(SendError::Refused(format!(
            "it redirects more than {REDIRECTS} times"
        )))
    }

    /// What somebody has to allow, where the server says that a request needs more than the grant has (RFC 6750,
    /// section 3.1). The grant stays as good as it is.
    pub fn too_narrow(&self, response: &StreamedResponse) -> Option<Failure> {
        let bearer = self
            .bearer
            .as_ref()
            .filter(|_| response.status() == StatusCode::FORBIDDEN)?;
        let challenge = response.headers().get(WWW_AUTHENTICATE)?.to_str().ok()?;
        parameter(challenge, "error").filter(|error| error == "insufficient_scope")?;
        Some(bearer.insufficient_scope(parameter(challenge, "scope")))
    }

    /// Opens the credentials for one request.
    fn authorize(
        &self,
        headers: &mut HeaderMap,
        token: Option<&(&TokenSource, Arc<SealedToken>)>,
    ) -> Result<RedactionGuard, String> {
        let mut hidden = RedactionGuard {
            redactor: self.redactor.clone(),
            ids: Vec::with_capacity(self.credentials.len()),
        };
        for SealedHeader {
            header,
            kind,
            value,
            sealed,
        } in &self.credentials
        {
            let name = if *kind == ServerValueKind::Header {
                header.as_str()
            } else {
                ""
            };
            let place = ServerValueContext {
                server: self.server,
                kind: *kind,
                name,
                value: *value,
            };
            let broken = |_| format!("its {header} cannot be opened");
            let plain: Plaintext = self.opener.open(place, sealed).map_err(broken)?;
            let plain = plain.expose().map_err(broken)?;
            let (text, parts) = match kind {
                ServerValueKind::UserInfo => basic(plain),
                ServerValueKind::Header
                | ServerValueKind::Session
                | ServerValueKind::Index
                | ServerValueKind::Lock => (Zeroizing::new(plain.to_owned()), parts(plain)),
            };
            hidden.put(headers, header, *value, &text, &parts)?;
        }
        if let Some((bearer, token)) = token {
            let plain = bearer.open(token)?;
            let plain = plain
                .expose()
                .map_err(|_| "its access token cannot be opened")?;
            hidden.put(headers, &AUTHORIZATION, token.value, plain, &parts(plain))?;
        }
        Ok(hidden)
    }
}

/// Keeps the masker watching for the credentials of one request.
pub struct RedactionGuard {
    redactor: Arc<Redactor>,
    ids: Vec<ValueId>,
}

impl RedactionGuard {
    /// Puts a credential into the headers, and hides it and its parts from now on.
    fn put(
        &mut self,
        headers: &mut HeaderMap,
        header: &HeaderName,
        value: ValueId,
        text: &str,
        parts: &[Zeroizing<String>],
    ) -> Result<(), String> {
        let mut content = HeaderValue::from_str(text)
            .map_err(|_| format!("its {header} is no header's value"))?;
        content.set_sensitive(true);
        headers.insert(header.clone(), content);
        self.redactor.hold_all(value, parts);
        self.ids.push(value);
        Ok(())
    }
}

impl Drop for RedactionGuard {
    fn drop(&mut self) {
        self.ids.iter().for_each(|id| self.redactor.release(*id));
    }
}

/// `user:password` as it stood in a URL becomes a header, and what is to be hidden of it.
fn basic(user_info: &str) -> (Zeroizing<String>, Vec<Zeroizing<String>>) {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode = |text: &str| {
        Zeroizing::new(
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned(),
        )
    };
    let (user, password) = (decode(user), decode(password));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(format!("{}:{}", &*user, &*password)));
    let header = Zeroizing::new(format!("Basic {}", &*encoded));
    let secret = if password.is_empty() { user } else { password };
    (
        header,
        vec![Zeroizing::new(user_info.to_owned()), encoded, secret],
    )
}

/// A value, and the parts of it that a server may repeat alone: the token after its scheme, a cookie's value.
fn parts(value: &str) -> Vec<Zeroizing<String>> {
    const LONG: usize = 6;
    let parts = value
        .split([' ', ';', ',', '='])
        .filter(|part| part.len() >= LONG);
    std::iter::once(value)
        .chain(parts)
        .map(|part| Zeroizing::new(part.to_owned()))
        .collect()
}
