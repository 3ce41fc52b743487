//! Opens the sealed headers of a server for requests of the MCP client.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::core::catalog::server::Server;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::remote::{HeaderValue as Header, Remote, is_authentication_header};
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::crypto::seal::{Opener, Plaintext};
use crate::ports::vault::Sealed;
use crate::workers::mcp::host::CredentialError;
use crate::workers::mcp::{Credentials, RedactionGuard};
use crate::workers::redact::Redactor;
use crate::workers::sealed_store::SealedStore;

/// The shortest part of a value that is redacted on its own, in bytes.
const MIN_PART: usize = 6;

/// The sealed headers of one server.
pub struct SealedCredentials {
    headers: Vec<SealedHeader>,
    values: Arc<[ValueId]>,
    server: ServerId,
    opener: Opener,
    redactor: Arc<Redactor>,
}

struct SealedHeader {
    header: HeaderName,
    kind: ServerValueKind,
    value: ValueId,
    sealed: Sealed,
}

impl SealedCredentials {
    /// Loads the sealed headers from the Vault and adds the other ones to `plain`. `has_token` says that an access token
    /// replaces `Authorization`.
    pub async fn load(
        server: &Server,
        remote: &Remote,
        store: &SealedStore,
        redactor: Arc<Redactor>,
        has_token: bool,
        plain: &mut HeaderMap,
    ) -> Result<Self, String> {
        let mut headers = Vec::new();
        for (name, value) in &remote.headers {
            let header: HeaderName = name
                .parse()
                .map_err(|_| format!("{name} cannot be the name of a header"))?;
            if has_token && header == AUTHORIZATION {
                continue;
            }
            match value {
                Header::Plain(value) => {
                    let value = HeaderValue::from_str(value)
                        .map_err(|_| format!("{name} cannot be the value of a header"))?;
                    plain.insert(header, value);
                }
                Header::Sealed { sealed } => headers.push(SealedHeader {
                    header,
                    kind: ServerValueKind::Header,
                    value: *sealed,
                    sealed: store.sealed(*sealed).await?,
                }),
            }
        }
        // An `Authorization` header wins over the user info of the URL.
        if let Some(value) = remote.user_info
            && !has_token
            && !headers.iter().any(|sealed| sealed.header == AUTHORIZATION)
        {
            headers.push(SealedHeader {
                header: AUTHORIZATION,
                kind: ServerValueKind::UserInfo,
                value,
                sealed: store.sealed(value).await?,
            });
        }
        Ok(Self {
            values: headers.iter().map(|sealed| sealed.value).collect(),
            headers,
            server: server.id,
            opener: store.opener.clone(),
            redactor,
        })
    }

    /// Opens one header, adds it to the request and redacts it from now on.
    fn apply_one(
        &self,
        sealed: &SealedHeader,
        headers: &mut HeaderMap,
    ) -> Result<(), CredentialError> {
        let SealedHeader {
            header,
            kind,
            value,
            ..
        } = sealed;
        let is_header = *kind == ServerValueKind::Header;
        let context = ServerValueContext {
            server: self.server,
            kind: *kind,
            name: if is_header { header.as_str() } else { "" },
            value: *value,
        };
        let unreadable = |_| CredentialError::Unreadable {
            header: header.to_string(),
        };
        let plain: Plaintext = self
            .opener
            .open(context, &sealed.sealed)
            .map_err(unreadable)?;
        let plain = plain.expose().map_err(unreadable)?;
        let (text, parts) = if is_header {
            (Zeroizing::new(plain.to_owned()), parts(plain))
        } else {
            basic_credentials(plain)
        };
        put_header(headers, header, &text)?;
        self.redactor.hold_all(*value, &parts);
        Ok(())
    }
}

impl Credentials for SealedCredentials {
    fn can_authenticate(&self) -> bool {
        self.headers
            .iter()
            .any(|sealed| is_authentication_header(sealed.header.as_str()))
    }

    fn apply(&self, headers: &mut HeaderMap) -> Result<RedactionGuard, CredentialError> {
        if self.headers.is_empty() {
            return Ok(RedactionGuard::default());
        }
        for (applied, sealed) in self.headers.iter().enumerate() {
            if let Err(error) = self.apply_one(sealed, headers) {
                for value in &self.values[..applied] {
                    self.redactor.release(*value);
                }
                return Err(error);
            }
        }
        Ok(RedactionGuard::new(Redaction {
            redactor: self.redactor.clone(),
            values: self.values.clone(),
        }))
    }
}

/// Ends the redaction of the credentials of one request when it is dropped.
struct Redaction {
    redactor: Arc<Redactor>,
    values: Arc<[ValueId]>,
}

impl Drop for Redaction {
    fn drop(&mut self) {
        for value in self.values.iter() {
            self.redactor.release(*value);
        }
    }
}

/// Adds a header that no log shows.
pub fn put_header(
    headers: &mut HeaderMap,
    header: &HeaderName,
    text: &str,
) -> Result<(), CredentialError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| CredentialError::Invalid {
        header: header.to_string(),
    })?;
    value.set_sensitive(true);
    headers.insert(header.clone(), value);
    Ok(())
}

/// Returns the `Authorization` header for the `user:password` of a URL, and the texts to redact.
fn basic_credentials(user_info: &str) -> (Zeroizing<String>, Vec<Zeroizing<String>>) {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        Zeroizing::new(decoded.into_owned())
    };
    let user = decode(user);
    let password = decode(password);
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(format!("{}:{}", &*user, &*password)));
    let header = Zeroizing::new(format!("Basic {}", &*encoded));
    let secret = if password.is_empty() { user } else { password };
    let redacted = vec![Zeroizing::new(user_info.to_owned()), encoded, secret];
    (header, redacted)
}

/// Returns a value and the parts that a server may repeat alone: the token after its scheme, the value of a cookie.
pub fn parts(value: &str) -> Vec<Zeroizing<String>> {
    let parts = value
        .split([' ', ';', ',', '='])
        .filter(|part| part.len() >= MIN_PART);
    std::iter::once(value)
        .chain(parts)
        .map(|part| Zeroizing::new(part.to_owned()))
        .collect()
}
