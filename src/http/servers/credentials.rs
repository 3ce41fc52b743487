//! Sealing of a server's credentials in the facade. Only a worker can open them.

use uuid::Uuid;

use crate::core::failure::Failure;
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::query::hide_query;
use crate::core::model::remote::{
    HIDDEN, HeaderValue, SealedValue, StoredSession, check_header_value, check_session_id,
    is_credential_header, split_user_info,
};
use crate::core::model::update::Update;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::crypto::seal::Sealer;
use crate::http::state::seal_value;
use crate::telemetry::error::internal_error;

/// Seals the credentials of one server and collects the sealed values for a command.
pub(crate) struct CredentialSealer<'a> {
    sealer: &'a Sealer,
    server: ServerId,
    values: Vec<SealedValue>,
}

/// The value of a header in a request.
pub(crate) enum HeaderField {
    /// `***`, which stands for the stored value.
    Hidden,
    Value(HeaderValue),
}

/// A URL whose credentials are sealed.
pub(crate) struct SealedUrl {
    /// The URL with `***` instead of its credentials.
    pub url: String,
    /// `***` keeps the stored user info.
    pub user_info: Update<ValueId>,
    /// The values of the query in their order. `None` stands for `***`.
    pub query: Vec<Option<ValueId>>,
}

impl<'a> CredentialSealer<'a> {
    pub(crate) fn new(sealer: &'a Sealer, server: ServerId) -> Self {
        Self {
            sealer,
            server,
            values: vec![],
        }
    }

    /// Returns the sealed values for the command.
    pub(crate) fn into_values(self) -> Vec<SealedValue> {
        self.values
    }

    /// Seals the user info and the values of the query that can be credentials.
    ///
    /// # Errors
    /// `invalid_request`. The sentence never holds the URL, which can hold a password.
    pub(crate) fn url(&mut self, url: &str) -> Result<SealedUrl, Failure> {
        let (url, user_info) = split_user_info(url)?;
        let (url, values) = hide_query(&url);
        let user_info = match user_info.as_deref() {
            None => Update::Clear,
            Some(HIDDEN) => Update::Keep,
            Some(plain) => Update::Set(self.seal(ServerValueKind::UserInfo, "", plain)?),
        };
        let query = values
            .iter()
            .map(|parameter| match parameter.value.as_str() {
                HIDDEN => Ok(None),
                plain => self
                    .seal(ServerValueKind::Query, &parameter.name, plain)
                    .map(Some),
            })
            .collect::<Result<_, _>>()?;
        Ok(SealedUrl {
            url,
            user_info,
            query,
        })
    }

    /// Returns the value of a header, sealed if the header can hold a credential.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn header(&mut self, name: &str, value: String) -> Result<HeaderField, Failure> {
        if !is_credential_header(name) {
            return Ok(HeaderField::Value(HeaderValue::Plain(value)));
        }
        if value == HIDDEN {
            return Ok(HeaderField::Hidden);
        }
        check_header_value(name, &value)?;
        let name = name.to_ascii_lowercase();
        let sealed = self.seal(ServerValueKind::Header, &name, &value)?;
        Ok(HeaderField::Value(HeaderValue::Sealed { sealed }))
    }

    /// Returns the id of a sealed session.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn session(&mut self, id: String) -> Result<ValueId, Failure> {
        check_session_id(&id)?;
        let session = StoredSession {
            id,
            initialize: None,
        };
        let session = serde_json::to_string(&session).map_err(internal_error)?;
        self.seal(ServerValueKind::Session, "", &session)
    }

    /// Seals a value and returns its id.
    ///
    /// # Errors
    /// `internal` if the key cannot be used.
    pub(crate) fn seal(
        &mut self,
        kind: ServerValueKind,
        name: &str,
        plain: &str,
    ) -> Result<ValueId, Failure> {
        let value = ValueId(Uuid::now_v7());
        let context = ServerValueContext {
            server: self.server,
            kind,
            name,
            value,
        };
        self.values.push(seal_value(self.sealer, context, plain)?);
        Ok(value)
    }
}
