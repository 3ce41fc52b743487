//! Where a server is: its URL, what it is told with every request, and what went wrong on the way, in a sentence.
//!
//! Credentials stay sealed between requests; each request opens them, and the masker hides them in whatever the
//! server says then.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, Url, redirect};
use zeroize::Zeroizing;

use super::memory::Memory;
use crate::core::names::{ServerId, ValueId};
use crate::core::remote::{HeaderValue as Header, Remote, plain_url};
use crate::ports::Sealed;
use crate::seal::{Kind, Opener, Plain, ServerPlace};
use crate::tls;
use crate::workers::mcp::mask::Masker;

/// Redirects that are followed, all within one origin.
const REDIRECTS: usize = 5;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(90);

pub struct Endpoint {
    client: Client,
    pub url: Url,
    headers: HeaderMap,
    credentials: Vec<Credential>,
    server: ServerId,
    opener: Opener,
    masker: Arc<Masker>,
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
                    let sealed = memory.sealed(*value).await?;
                    credentials.push(Credential { header, kind: Kind::Header, value: *value, sealed });
                }
            }
        }
        // A header that says it wins over the URL.
        if let Some(value) = remote.user_info
            && !credentials.iter().any(|credential| credential.header == AUTHORIZATION)
        {
            let sealed = memory.sealed(value).await?;
            credentials.push(Credential { header: AUTHORIZATION, kind: Kind::UserInfo, value, sealed });
        }
        let client = tls::client()
            .redirect(redirect::Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|error| format!("no client can be made: {}", describe(&error)))?;
        let opener = memory.keep.opener.clone();
        Ok(Self { client, url, headers, credentials, server, opener, masker })
    }

    /// Sends one request. Redirects are followed within the origin, with the same method and body: whoever
    /// redirects has not begun.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        own: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<(Response, Hidden), Unsent> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = self.headers.clone();
            headers.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
            let hidden = self.authorize(&mut headers).map_err(Unsent::Refused)?;
            let mut request = reqwest::Request::new(method.clone(), url.clone());
            *request.headers_mut() = headers;
            *request.body_mut() = body.clone().map(Into::into);
            let response = self.client.execute(request).await.map_err(|error| {
                let what = describe(&error);
                if error.is_connect() {
                    Unsent::Unreachable(format!("it cannot be connected to: {what}"))
                } else if error.is_builder() {
                    Unsent::Refused(format!("it cannot be asked: {what}"))
                } else {
                    Unsent::Broken(what)
                }
            })?;
            if !matches!(response.status().as_u16(), 301 | 302 | 307 | 308) {
                return Ok((response, hidden));
            }
            let to = response.headers().get(LOCATION).and_then(|to| url.join(to.to_str().ok()?).ok());
            let to = to.ok_or_else(|| Unsent::Refused("it redirects to no URL".into()))?;
            if to.origin() != url.origin() {
                let (from, to) = (url.origin().ascii_serialization(), to.origin().ascii_serialization());
                return Err(Unsent::Refused(format!(
                    "it redirects from {from} to {to}, and only redirects within one origin are followed"
                )));
            }
            url = to;
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

/// The innermost reason of an error, without the URL.
pub fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".into();
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // An error without a source tells its URL itself.
    if error.source().is_none() { "the request failed".into() } else { innermost.to_string() }
}
