//! The values that each HTTP request to a server carries in its headers and its URL: those of the server's configuration,
//! and the credentials of a user.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str};
use zeroize::Zeroizing;

use super::{being_changed, load};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::stored_credentials;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::credential::{Credential, CredentialLocation, CredentialOwner};
use crate::core::model::query::{fill_query, hidden_names};
use crate::core::model::remote::{HeaderValue as Header, is_authentication_header};
use crate::core::names::UserName;
use crate::crypto::context::{SecretContext, ServerValueContext, ServerValueKind};
use crate::crypto::seal::{Opener, Plaintext};
use crate::ports::vault::Sealed;
use crate::workers::mcp::host::CredentialError;
use crate::workers::mcp::{ConnectError, Credentials, RedactionGuard};
use crate::workers::redact::Redactor;
use crate::workers::sealed_store::SealedStore;

/// The shortest part of a value that is redacted on its own, in bytes.
const MIN_PART: usize = 6;

/// The sealed headers of one server, and the sealed values of the query of its URL.
pub struct SealedCredentials {
    headers: Vec<SealedHeader>,
    /// In the order of the `***` in the query.
    query: Vec<SealedParameter>,
    /// The credentials that the server declares.
    declared: Vec<SentCredential>,
    /// The server declares credentials in headers or in the query, set or not.
    is_declared: bool,
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

struct SealedParameter {
    name: String,
    value: ValueId,
    sealed: Sealed,
}

/// A credential in a header or a parameter of the query.
struct SentCredential {
    location: SentLocation,
    /// `None`: all users share the value.
    user: Option<UserName>,
    credential: Credential,
    value: ValueId,
    sealed: Sealed,
}

enum SentLocation {
    Header(HeaderName),
    Parameter,
}

impl SealedCredentials {
    /// Loads the sealed values from the Vault and adds the other headers to `plain`. `has_token` says that an access token
    /// replaces the `Authorization` of the configuration.
    pub async fn load(
        server: &Server,
        user: Option<&UserName>,
        store: &SealedStore,
        redactor: Arc<Redactor>,
        has_token: bool,
        plain: &mut HeaderMap,
    ) -> Result<Self, ConnectError> {
        let Some(remote) = server.remote() else {
            return Err("it has no URL".into());
        };
        let mut headers = Vec::new();
        for (name, value) in &remote.headers {
            let header = header_name(name)?;
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
        let mut query = Vec::new();
        for (name, value) in hidden_names(&remote.url).into_iter().zip(&remote.query) {
            query.push(SealedParameter {
                name,
                value: *value,
                sealed: store.sealed(*value).await?,
            });
        }
        let declared = load_declared(server, user, store).await?;
        let header_values = headers.iter().map(|sealed| sealed.value);
        let declared_values = declared.iter().map(|sent| sent.value);
        let values = header_values.chain(remote.query.iter().copied());
        Ok(Self {
            values: values.chain(declared_values).collect(),
            headers,
            query,
            declared,
            is_declared: server.config.sends_credentials(),
            server: server.id,
            opener: store.opener.clone(),
            redactor,
        })
    }

    /// Adds all headers to a request and puts the values of the query into `uri`. Counts the values that are redacted in
    /// `held`.
    fn apply_all(
        &self,
        headers: &mut HeaderMap,
        mut uri: Option<&mut Uri>,
        held: &mut usize,
    ) -> Result<(), CredentialError> {
        for sealed in &self.headers {
            self.apply_header(sealed, headers)?;
            *held += 1;
        }
        let mut values = Vec::new();
        for sealed in &self.query {
            values.push(self.open_parameter(sealed)?);
            *held += 1;
        }
        if let Some(uri) = uri.as_deref_mut()
            && !values.is_empty()
        {
            fill_uri(uri, &values)?;
        }
        for sent in &self.declared {
            self.apply_declared(sent, headers, uri.as_deref_mut())?;
            *held += 1;
        }
        Ok(())
    }

    /// Opens one credential, adds it to the request and redacts it from now on.
    fn apply_declared(
        &self,
        sent: &SentCredential,
        headers: &mut HeaderMap,
        uri: Option<&mut Uri>,
    ) -> Result<(), CredentialError> {
        let target = sent.credential.target();
        let unreadable = |_| CredentialError::Unreadable {
            name: format!("credential {target}"),
        };
        let context = SecretContext {
            server: self.server,
            user: sent.user.as_ref(),
            name: &sent.credential.name,
            value: sent.value,
        };
        let plain = self
            .opener
            .open(context, &sent.sealed)
            .map_err(unreadable)?;
        let value = plain.expose().map_err(unreadable)?;
        let formatted = sent.credential.formatted(value);
        let text = formatted.as_ref().map_or(value, |text| text.as_str());
        match (&sent.location, uri) {
            (SentLocation::Header(header), _) => put_header(headers, header, text)?,
            (SentLocation::Parameter, Some(uri)) => add_parameter(uri, target, text)?,
            // Only the configured URL gets the parameters.
            (SentLocation::Parameter, None) => {}
        }
        self.redactor.hold_all(sent.value, &parts(text));
        Ok(())
    }

    /// Opens one value of the query and redacts it from now on.
    fn open_parameter(
        &self,
        parameter: &SealedParameter,
    ) -> Result<Zeroizing<String>, CredentialError> {
        let context = ServerValueContext {
            server: self.server,
            kind: ServerValueKind::Query,
            name: &parameter.name,
            value: parameter.value,
        };
        let unreadable = |_| CredentialError::Unreadable {
            name: format!("query parameter {}", parameter.name),
        };
        let plain = self
            .opener
            .open(context, &parameter.sealed)
            .map_err(unreadable)?;
        let text = Zeroizing::new(plain.expose().map_err(unreadable)?.to_owned());
        let decoded = text.replace('+', " ");
        let decoded = percent_decode_str(&decoded).decode_utf8_lossy();
        let decoded = Zeroizing::new(decoded.into_owned());
        self.redactor
            .hold_all(parameter.value, &[text.clone(), decoded]);
        Ok(text)
    }

    /// Opens one header, adds it to the request and redacts it from now on.
    fn apply_header(
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
            name: header.to_string(),
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
        if self.is_declared {
            return true;
        }
        let headers = self.headers.iter().map(|sealed| sealed.header.as_str());
        let parameters = self.query.iter().map(|sealed| sealed.name.as_str());
        headers.chain(parameters).any(is_authentication_header)
    }

    fn apply(
        &self,
        headers: &mut HeaderMap,
        uri: Option<&mut Uri>,
    ) -> Result<RedactionGuard, CredentialError> {
        if self.values.is_empty() {
            return Ok(RedactionGuard::default());
        }
        let mut held = 0;
        if let Err(error) = self.apply_all(headers, uri, &mut held) {
            for value in &self.values[..held] {
                self.redactor.release(*value);
            }
            return Err(error);
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

async fn load_declared(
    server: &Server,
    user: Option<&UserName>,
    store: &SealedStore,
) -> Result<Vec<SentCredential>, ConnectError> {
    let stored = stored_credentials(server, user, CredentialLocation::is_sent)?;
    let loaded = load(store, stored).await?;
    let loaded = loaded.ok_or_else(being_changed)?;
    let mut declared = Vec::with_capacity(loaded.len());
    for (stored, sealed) in loaded {
        let Some(credential) = stored.credential.cloned() else {
            continue;
        };
        let location = match credential.location {
            CredentialLocation::Header => SentLocation::Header(header_name(credential.target())?),
            _ => SentLocation::Parameter,
        };
        declared.push(SentCredential {
            location,
            user: user
                .filter(|_| stored.owner == CredentialOwner::User)
                .cloned(),
            credential,
            value: stored.value,
            sealed,
        });
    }
    Ok(declared)
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse()
        .map_err(|_| format!("{name} cannot be the name of a header"))
}

/// Adds a parameter to the query.
fn add_parameter(uri: &mut Uri, name: &str, value: &str) -> Result<(), CredentialError> {
    let path_and_query = uri.path_and_query().map_or("/", |text| text.as_str());
    let separator = if path_and_query.contains('?') {
        '&'
    } else {
        '?'
    };
    let mut filled = Zeroizing::new(format!("{path_and_query}{separator}"));
    let encode = |text| percent_encoding::utf8_percent_encode(text, NON_ALPHANUMERIC);
    filled.extend(encode(name));
    filled.push('=');
    filled.extend(encode(value));
    set_path_and_query(uri, &filled)
}

fn set_path_and_query(uri: &mut Uri, text: &str) -> Result<(), CredentialError> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(text.parse().map_err(|_| CredentialError::InvalidQuery)?);
    *uri = Uri::from_parts(parts).map_err(|_| CredentialError::InvalidQuery)?;
    Ok(())
}

/// Puts the opened values into the query.
fn fill_uri(uri: &mut Uri, values: &[Zeroizing<String>]) -> Result<(), CredentialError> {
    let path_and_query = uri.path_and_query().map_or("/", |text| text.as_str());
    let values = values.iter().map(|value| Some(value.as_str()));
    let filled = Zeroizing::new(fill_query(path_and_query, values));
    set_path_and_query(uri, &filled)
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
