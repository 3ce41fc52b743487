//! The session of a browser: a signed cookie that authenticates pages and no other route.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::failure::Failure;
use crate::core::ids::TokenId;
use crate::core::model::caller::{Caller, CallerKind, Scopes};
use crate::core::names::UserName;
use crate::http::auth::caller_of_token;
use crate::http::respond::cookie::SignedCookie;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;

/// The life of a session.
pub(super) const SESSION_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// The purpose of the signature that proves a sign-in with `ADMIN_TOKEN`.
const ADMIN_PURPOSE: &str = "session admin token";
/// The purpose of the signature of the configuration with which a person signed in at the issuer.
const ISSUER_PURPOSE: &str = "session issuer";

/// The cookie of a signed-in browser.
const COOKIE: SignedCookie = SignedCookie {
    name: "mcp_api_session",
    path: "/",
    purpose: "session cookie",
    lifetime: SESSION_LIFETIME,
};

/// The content of the cookie. It holds no token.
#[derive(Serialize, Deserialize)]
struct Session {
    id: Uuid,
    identity: Identity,
    /// Seconds since 1970.
    until: u64,
}

/// The identity that a person proved.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Identity {
    /// The signature of `ADMIN_TOKEN`. Another `ADMIN_TOKEN` ends the session.
    AdminToken(String),
    Token(TokenId),
    Issuer(IssuerIdentity),
}

/// A person whom the issuer has named.
#[derive(Serialize, Deserialize)]
struct IssuerIdentity {
    user: UserName,
    subject: Option<Arc<str>>,
    scopes: Scopes,
    /// The signature of the configuration. Another issuer, client or group of administrators ends the session.
    configuration: String,
}

/// A person who has signed in.
pub(crate) struct SignedIn {
    /// Names the session. A form of one session is not valid in another session.
    pub session: Uuid,
    pub caller: Caller,
}

/// Returns the person who has signed in with this browser, if the session and its token are valid now.
pub(crate) fn signed_in(state: &ApiState, headers: &HeaderMap) -> Option<SignedIn> {
    let session: Session = COOKIE.read(state, headers)?;
    if session.until <= now_seconds() {
        return None;
    }
    let caller = match session.identity {
        Identity::AdminToken(signature) => {
            let token = state.access().admin_token.as_ref()?;
            let signature = URL_SAFE.decode(signature).ok()?;
            let is_current = state.sealer().is_signed(ADMIN_PURPOSE, token, &signature);
            is_current.then(|| Caller::unrestricted(CallerKind::Browser))?
        }
        Identity::Token(token) => caller_of_token(token, &state.catalog())?,
        Identity::Issuer(identity) => identity.caller(state)?,
    };
    let until = session.until * 1000;
    Some(SignedIn {
        session: session.id,
        caller: Caller {
            kind: CallerKind::Browser,
            expires_at: Some(caller.expires_at.map_or(until, |end| end.min(until))),
            ..caller
        },
    })
}

/// Returns whether the browser has a session, also if the session has ended.
pub(crate) fn presents_session(headers: &HeaderMap) -> bool {
    COOKIE.is_present(headers)
}

/// Returns the header that signs a browser in.
///
/// # Errors
/// `internal` if the cookie cannot be signed.
pub(super) fn begin_session(state: &ApiState, caller: &Caller) -> Result<HeaderValue, Failure> {
    let identity = match (caller.kind, caller.token) {
        (CallerKind::Oidc, _) => Identity::Issuer(IssuerIdentity::new(state, caller)?),
        (_, Some(token)) => Identity::Token(token),
        (_, None) => Identity::AdminToken(admin_signature(state)?),
    };
    let session = Session {
        id: Uuid::new_v4(),
        identity,
        until: now_seconds() + SESSION_LIFETIME.as_secs(),
    };
    COOKIE.issue(state, &session)
}

/// Returns the header that signs a browser out.
///
/// # Errors
/// `internal` if the header cannot be made.
pub(crate) fn end_session(state: &ApiState) -> Result<HeaderValue, Failure> {
    COOKIE.remove(state)
}

fn admin_signature(state: &ApiState) -> Result<String, Failure> {
    let token = state.access().admin_token.as_ref();
    let token = token.ok_or_else(Failure::internal)?;
    let signature = state
        .sealer()
        .sign(ADMIN_PURPOSE, token)
        .map_err(internal_error)?;
    Ok(URL_SAFE.encode(signature))
}

impl IssuerIdentity {
    fn new(state: &ApiState, caller: &Caller) -> Result<Self, Failure> {
        let client = state.signin_client().ok_or_else(Failure::internal)?;
        let signature = state
            .sealer()
            .sign(ISSUER_PURPOSE, &client.configuration())
            .map_err(internal_error)?;
        Ok(Self {
            user: caller.user.clone(),
            subject: caller.subject.clone(),
            scopes: caller.scopes,
            configuration: URL_SAFE.encode(signature),
        })
    }

    /// Returns the caller, if the configuration is the same. An ID token proves the sign-in and does not limit the
    /// session, because issuers make ID tokens for a few minutes.
    fn caller(self, state: &ApiState) -> Option<Caller> {
        let client = state.signin_client()?;
        let signature = URL_SAFE.decode(&self.configuration).ok()?;
        let is_current =
            state
                .sealer()
                .is_signed(ISSUER_PURPOSE, &client.configuration(), &signature);
        is_current.then(|| Caller {
            user: self.user,
            subject: self.subject,
            scopes: self.scopes,
            ..Caller::unrestricted(CallerKind::Browser)
        })
    }
}
