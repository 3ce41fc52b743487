//! Adds the access token of a grant to requests of the MCP client.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderMap};

use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::workers::credentials::remote::{parts, put_header};
use crate::workers::mcp::host::TokenError;
use crate::workers::mcp::{AccessTokens, AppliedToken, RedactionGuard};
use crate::workers::oauth::client::www_authenticate::Challenges;
use crate::workers::oauth::token_source::{SealedToken, TokenSource};
use crate::workers::redact::Redactor;

/// The access token of one connection.
pub(super) struct TokenHeader {
    pub source: TokenSource,
    pub redactor: Arc<Redactor>,
}

/// Ends the redaction of a token when it is dropped.
struct TokenRedaction {
    redactor: Arc<Redactor>,
    value: ValueId,
}

impl Drop for TokenRedaction {
    fn drop(&mut self) {
        self.redactor.release(self.value);
    }
}

impl TokenHeader {
    fn apply_token(
        &self,
        token: &SealedToken,
        headers: &mut HeaderMap,
    ) -> Result<AppliedToken, TokenError> {
        let plain = self
            .source
            .open(token)
            .map_err(|_| TokenError::Unreadable)?;
        let text = plain.expose().map_err(|_| TokenError::Unreadable)?;
        put_header(headers, &AUTHORIZATION, text).map_err(|_| TokenError::Unreadable)?;
        self.redactor.hold_all(token.value, &parts(text));
        let redaction = TokenRedaction {
            redactor: self.redactor.clone(),
            value: token.value,
        };
        Ok(AppliedToken {
            id: token.value,
            redaction: RedactionGuard::new(redaction),
        })
    }
}

#[async_trait::async_trait]
impl AccessTokens for TokenHeader {
    fn apply_current(&self, headers: &mut HeaderMap) -> Result<Option<AppliedToken>, TokenError> {
        match self.source.current()? {
            Some(token) => self.apply_token(&token, headers).map(Some),
            None => Ok(None),
        }
    }

    async fn apply(&self, headers: &mut HeaderMap) -> Result<AppliedToken, TokenError> {
        let token = self.source.token().await?;
        self.apply_token(&token, headers)
    }

    async fn rejected(&self, token: ValueId) -> Result<(), Failure> {
        self.source.refused(token).await
    }

    fn rejected_again(&self, token: ValueId) -> Failure {
        self.source.mark_rejected(token)
    }

    fn insufficient_scope(&self, response: &HeaderMap) -> Option<Failure> {
        let challenges = Challenges::from_headers(response);
        let challenge = challenges.bearer_with_error("insufficient_scope")?;
        let scope = challenge.parameter("scope").map(str::to_owned);
        Some(self.source.insufficient_scope(scope))
    }
}
