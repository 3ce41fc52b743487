//! Signed links that begin an authorization, and the cookie of the browser that has begun one.

use axum::http::HeaderValue;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::catalog::server::Server;
use crate::core::command::AuthorizationStarted;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{GrantId, check_scopes};
use crate::core::names::UserName;
use crate::http::respond::cookie::{SIGN_IN_LIFETIME, SignedCookie, sign_in_expiry};
use crate::http::respond::html::public_url;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;

/// The purpose of a link's signature.
const LINK_PURPOSE: &str = "oauth link";

/// The cookie of a browser that has begun an authorization.
pub(crate) const COOKIE: SignedCookie = SignedCookie {
    name: "mcp_api_oauth",
    path: "/oauth",
    purpose: "oauth cookie",
    lifetime: SIGN_IN_LIFETIME,
};

/// The content of a link: an authorization that has begun, or the grant that a user wants.
#[derive(Serialize, Deserialize)]
pub(crate) struct AuthorizationLink {
    /// Names the link, so that it is used once.
    pub id: ValueId,
    pub grant: GrantId,
    #[serde(rename = "begun")]
    pub started: Option<AuthorizationStarted>,
    /// The scopes to request; the scopes that the server asks for if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Seconds since 1970.
    until: u64,
}

/// The content of the cookie.
#[derive(Serialize, Deserialize)]
pub(crate) struct AuthorizationCookie {
    pub grant: GrantId,
    /// The id of the sealed state of the authorization.
    #[serde(rename = "begun")]
    pub authorization: ValueId,
    /// The digest of the `state` parameter.
    pub state: String,
    /// The person has begun on the page of the server, and returns there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_server_page: bool,
    /// Seconds since 1970.
    until: u64,
}

impl AuthorizationLink {
    /// Creates a link that is valid for ten minutes.
    pub(crate) fn new(
        grant: GrantId,
        started: Option<AuthorizationStarted>,
        scopes: Option<Vec<String>>,
    ) -> Self {
        Self {
            id: ValueId(Uuid::now_v7()),
            grant,
            started,
            scopes,
            until: sign_in_expiry(),
        }
    }

    /// Returns the URL of the link.
    ///
    /// # Errors
    /// `internal` if the link cannot be signed.
    pub(crate) fn url(
        &self,
        state: &ApiState,
        host: Option<&HeaderValue>,
    ) -> Result<String, Failure> {
        let link = state
            .sealer()
            .sign_text(LINK_PURPOSE, self)
            .map_err(internal_error)?;
        Ok(public_url(
            state,
            host,
            &format!("/oauth/authorize?link={link}"),
        ))
    }

    /// Returns the content of a link.
    ///
    /// # Errors
    /// `forbidden` if another deployment made the link or the link has expired.
    pub(crate) fn verify(state: &ApiState, link: &str) -> Result<Self, Failure> {
        let link: Self = state
            .sealer()
            .verify_text(LINK_PURPOSE, link)
            .ok_or_else(|| {
                Failure::new(
                    Code::Forbidden,
                    "This link was not made here, or was changed; ask for a new one",
                )
            })?;
        if link.until < now_seconds() {
            return Err(Failure::new(
                Code::Forbidden,
                "This link is more than ten minutes old; ask for a new one",
            ));
        }
        Ok(link)
    }
}

impl AuthorizationCookie {
    /// Creates a cookie that is valid for ten minutes.
    pub(crate) fn new(grant: GrantId, authorization: ValueId, state: String) -> Self {
        Self {
            grant,
            authorization,
            state,
            from_server_page: false,
            until: sign_in_expiry(),
        }
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.until < now_seconds()
    }
}

/// Adds the URL of a link to a call that failed because its user has not given access.
pub(crate) fn add_authorization_url(
    state: &ApiState,
    host: Option<&HeaderValue>,
    server: &Server,
    user: &UserName,
    failure: Failure,
) -> Failure {
    if failure.code != Code::ReauthRequired || server.remote().is_none() {
        return failure;
    }
    let grant = GrantId {
        server: server.id,
        user: Some(user.clone()),
    };
    let scopes = failure
        .scope
        .as_deref()
        .map(split_scopes)
        .filter(|scopes| check_scopes(Some(scopes)).is_ok());
    match AuthorizationLink::new(grant, None, scopes).url(state, host) {
        Ok(url) => Failure {
            authorization_url: Some(url.into()),
            ..failure
        },
        Err(internal) => internal,
    }
}

fn split_scopes(scope: &str) -> Vec<String> {
    scope.split_ascii_whitespace().map(str::to_owned).collect()
}
