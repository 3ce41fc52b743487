//! Where a server is: its URL, what it is told with every request, and what went wrong on the way, in a sentence.
//!
//! Credentials stay sealed between requests; each request opens them, and the masker hides them in whatever the
//! server says then.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Uri};
use url::Url;
use zeroize::Zeroizing;

use super::memory::Memory;
use crate::core::names::{ServerId, ValueId};
use crate::core::remote::{HeaderValue as Header, Remote, plain_url};
use crate::ports::Sealed;
use crate::seal::{Kind, Opener, Plain, ServerPlace};
use crate::workers::mcp::mask::Masker;
use crate::workers::net::{Client, Response, client, describe};

/// Redirects that are followed, all within one origin.
const REDIRECTS: usize = 5;

pub struct Endpoint {
    client: Client,
    pub place: Place,
    headers: HeaderMap,
    credentials: Vec<Credential>,
    server: ServerId,
    opener: Opener,
    masker: Arc<Masker>,
}

/// A URL, parsed once for all requests.
pub struct Place {
    pub url: Url,
    uri: Uri,
}

impl Place {
    pub fn new(url: Url) -> Result<Self, String> {
        let uri = url.as_str().parse().map_err(|error| format!("its URL cannot be used: {error}"))?;
        Ok(Self { url, uri })
    }
}

struct Credential {
    header: HeaderName,
    kind: Kind,
    value: ValueId,
    sealed: Sealed,
}

/// Why there is no answer to a request.
#[derive(Debug)]
pub enum Unsent {
    /// Nothing was begun: the server cannot be reached.
    Unreachable(String),
    /// It was begun, and may have been done.
    Broken(String),
    /// It points elsewhere, or cannot be asked at all; nothing was begun.
    Refused(String),
}

impl Endpoint {
    /// Looks up what the URL and the headers need; nothing is sent yet.
    pub async fn open(server: ServerId, remote: &Remote, memory: &Memory, masker: Arc<Masker>) -> Result<Self, String> {
        let url = Url::parse(&plain_url(&remote.url)).map_err(|error| format!("its URL cannot be used: {error}"))?;
        let (mut headers, mut credentials) = (HeaderMap::new(), Vec::new());
        for (name, value) in &remote.headers {
            let header: HeaderName = name.parse().map_err(|_| format!("{name} cannot be a header"))?;
            match value {
                Header::Plain(value) => {
                    let value = HeaderValue::from_str(value).map_err(|_| format!("{name} has no value of a header"))?;
                    headers.insert(header, value);
                }
                Header::Sealed { sealed: value } => {
                    let sealed = memory.keep.sealed(*value).await?;
                    credentials.push(Credential { header, kind: Kind::Header, value: *value, sealed });
                }
            }
        }
        // A header that says it wins over the URL.
        if let Some(value) = remote.user_info
            && !credentials.iter().any(|credential| credential.header == AUTHORIZATION)
        {
            let sealed = memory.keep.sealed(value).await?;
            credentials.push(Credential { header: AUTHORIZATION, kind: Kind::UserInfo, value, sealed });
        }
        let opener = memory.keep.opener.clone();
        Ok(Self { client: client(), place: Place::new(url)?, headers, credentials, server, opener, masker })
    }

    /// Sends one request. Redirects are followed within the origin, with the same method and body: whoever
    /// redirects has not begun.
    pub async fn send(
        &self,
        method: Method,
        to: &Place,
        own: &HeaderMap,
        body: Bytes,
    ) -> Result<(Response, Hidden), Unsent> {
        let mut moved: Option<Place> = None;
        for _ in 0..=REDIRECTS {
            let to = moved.as_ref().unwrap_or(to);
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = to.uri.clone();
            request.headers_mut().clone_from(own);
            request.headers_mut().extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            let hidden = self.authorize(request.headers_mut()).map_err(Unsent::Refused)?;
            let response = self.client.request(request).await.map_err(|error| {
                let what = describe(&error);
                match error.is_connect() {
                    true => Unsent::Unreachable(format!("it cannot be connected to: {what}")),
                    false => Unsent::Broken(what),
                }
            })?;
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok((Response::new(response), hidden));
            }
            let next = response.headers().get(LOCATION).and_then(|next| to.url.join(next.to_str().ok()?).ok());
            let next = next.ok_or_else(|| Unsent::Refused("it redirects to no URL".into()))?;
            if next.origin() != to.url.origin() {
                let (from, to) = (to.url.origin().ascii_serialization(), next.origin().ascii_serialization());
                return Err(Unsent::Refused(format!(
                    "it redirects from {from} to {to}, and only redirects within one origin are followed"
                )));
            }
            moved = Some(Place::new(next).map_err(Unsent::Refused)?);
        }
        Err(Unsent::Refused(format!("it redirects more than {REDIRECTS} times")))
    }

    /// Opens the credentials for one request. A grant's token will be put here, too.
    fn authorize(&self, headers: &mut HeaderMap) -> Result<Hidden, String> {
        let mut hidden = Hidden { masker: self.masker.clone(), ids: Vec::with_capacity(self.credentials.len()) };
        for Credential { header, kind, value, sealed } in &self.credentials {
            let name = if *kind == Kind::Header { header.as_str() } else { "" };
            let place = ServerPlace { server: self.server, kind: *kind, name, value: *value };
            let broken = |_| format!("its {header} cannot be opened");
            let plain: Plain = self.opener.open(place, sealed).map_err(broken)?;
            let plain = plain.expose().map_err(broken)?;
            let (text, parts) = match kind {
                Kind::UserInfo => basic(plain),
                Kind::Header | Kind::Session => (Zeroizing::new(plain.to_owned()), parts(plain)),
            };
            let mut value_of =
                HeaderValue::from_str(&text).map_err(|_| format!("its {header} is no header's value"))?;
            value_of.set_sensitive(true);
            headers.insert(header.clone(), value_of);
            self.masker.hold_all(*value, &parts);
            hidden.ids.push(*value);
        }
        Ok(hidden)
    }
}

/// Keeps the masker watching for the credentials of one request.
pub struct Hidden {
    masker: Arc<Masker>,
    ids: Vec<ValueId>,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.ids.iter().for_each(|id| self.masker.release(*id));
    }
}

/// `user:password` as it stood in a URL becomes a header, and what is to be hidden of it.
fn basic(user_info: &str) -> (Zeroizing<String>, Vec<Zeroizing<String>>) {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode =
        |text: &str| Zeroizing::new(percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned());
    let (user, password) = (decode(user), decode(password));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(format!("{}:{}", &*user, &*password)));
    let header = Zeroizing::new(format!("Basic {}", &*encoded));
    let secret = if password.is_empty() { user } else { password };
    (header, vec![Zeroizing::new(user_info.to_owned()), encoded, secret])
}

/// A value, and the parts of it that a server may repeat alone: the token after its scheme, a cookie's value.
fn parts(value: &str) -> Vec<Zeroizing<String>> {
    const LONG: usize = 6;
    let parts = value.split([' ', ';', ',', '=']).filter(|part| part.len() >= LONG);
    std::iter::once(value).chain(parts).map(|part| Zeroizing::new(part.to_owned())).collect()
}
