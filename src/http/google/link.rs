//! Signed links to the Google sign-in, and the cookie of the browser that has begun one.

use axum::http::HeaderValue;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde::{Deserialize, Serialize};
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::google;
use crate::core::model::job::Job;
use crate::core::names::{ServerName, UserName};
use crate::http::respond::cookie::{SIGN_IN_LIFETIME, SignedCookie, sign_in_expiry};
use crate::http::respond::html::public_url;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;
use crate::views::job_answer::JobAnswer;

/// The path that a link opens.
const LOGIN_PATH: &str = "/auth/google/login";
/// The purpose of a link's signature.
const LINK_PURPOSE: &str = "google link";

/// The cookie of a browser that has begun a sign-in.
pub(crate) const COOKIE: SignedCookie = SignedCookie {
    name: "mcp_api_google",
    path: "/auth/google",
    purpose: "google cookie",
    lifetime: SIGN_IN_LIFETIME,
};

/// A link to the sign-in of one user.
pub(crate) struct GoogleLink<'a> {
    pub user: &'a UserName,
    pub server: Option<&'a ServerName>,
}

impl GoogleLink<'_> {
    /// Returns the URL of a signed link that is valid for ten minutes.
    ///
    /// # Errors
    /// `internal` if the link cannot be signed.
    pub(crate) fn url(
        &self,
        state: &ApiState,
        host: Option<&HeaderValue>,
    ) -> Result<String, Failure> {
        let expires = sign_in_expiry();
        let id = Uuid::now_v7();
        let signature = state
            .sealer()
            .sign(LINK_PURPOSE, &self.signed_text(expires, Some(id)))
            .map_err(internal_error)?;
        let mut query = Serializer::new(String::new());
        query.append_pair("user_id", self.user.as_str());
        if let Some(server) = self.server {
            query.append_pair("server", server.as_str());
        }
        query.append_pair("expires", &expires.to_string());
        query.append_pair("id", &id.to_string());
        query.append_pair("signature", &URL_SAFE.encode(signature));
        let path = format!("{LOGIN_PATH}?{}", query.finish());
        Ok(public_url(state, host, &path))
    }

    /// Checks the signature of a link. A deployment without an identity needs no signature, but
    /// a given signature must be valid.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn check(
        &self,
        state: &ApiState,
        expires: Option<u64>,
        id: Option<Uuid>,
        signature: Option<&str>,
    ) -> Result<(), Failure> {
        if !state.access().is_identity_configured() && signature.is_none() {
            return Ok(());
        }
        let (Some(expires), Some(signature)) = (expires, signature) else {
            return Err(refused_link(
                "is not signed; POST /auth/google/link makes signed links",
            ));
        };
        let signature = URL_SAFE.decode(signature).unwrap_or_default();
        let text = self.signed_text(expires, id);
        if !state.sealer().is_signed(LINK_PURPOSE, &text, &signature) {
            return Err(refused_link("was not made here, or was changed"));
        }
        if expires < now_seconds() {
            return Err(refused_link("is more than ten minutes old"));
        }
        Ok(())
    }

    fn signed_text(&self, expires: u64, id: Option<Uuid>) -> String {
        serde_json::json!([self.user, self.server, expires, id]).to_string()
    }
}

fn refused_link(problem: &str) -> Failure {
    Failure::new(
        Code::Forbidden,
        format!("This link {problem}; ask for a new one"),
    )
}

/// The content of the cookie.
#[derive(Serialize, Deserialize)]
pub(crate) struct LoginCookie {
    pub user: UserName,
    pub server: ServerId,
    /// The digest of the `state` parameter.
    pub state: String,
    /// The person has begun on the page of the server, and returns there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_server_page: bool,
    /// Seconds since 1970.
    until: u64,
}

impl LoginCookie {
    /// Creates a cookie that is valid for ten minutes.
    pub(crate) fn new(user: UserName, server: ServerId, state: String) -> Self {
        Self {
            user,
            server,
            state,
            from_server_page: false,
            until: sign_in_expiry(),
        }
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.until < now_seconds()
    }
}

/// Adds the URL of the sign-in to a call that failed because its user has not given access.
pub(crate) fn add_login_url(
    state: &ApiState,
    host: Option<&HeaderValue>,
    server: &Server,
    user: &UserName,
    failure: Failure,
) -> Failure {
    if failure.code != Code::ReauthRequired || !google::is_marked(&server.config) {
        return failure;
    }
    let link = GoogleLink {
        user,
        server: Some(&server.name),
    };
    match link.url(state, host) {
        Ok(url) => Failure {
            authorization_url: Some(url.into()),
            ..failure
        },
        Err(internal) => internal,
    }
}

/// Adds a new URL of the sign-in to the stored answer of a job, because a stored link expires.
///
/// # Errors
/// `internal` if the answer cannot be encoded.
pub(crate) fn add_fresh_login_url(
    state: &ApiState,
    job: &Job,
    answer: JobAnswer,
) -> Result<JobAnswer, Failure> {
    if answer.code() != Some(Code::ReauthRequired) {
        return Ok(answer);
    }
    let catalog = state.catalog();
    let server = job
        .target
        .server
        .as_ref()
        .and_then(|name| catalog.server(name.as_str()))
        .filter(|server| google::is_marked(&server.config));
    let Some(server) = server else {
        return Ok(answer);
    };
    let link = GoogleLink {
        user: &job.target.user,
        server: Some(&server.name),
    };
    let url = link.url(state, None)?;
    answer
        .with_text("authorizationUrl", &url)
        .map_err(internal_error)
}
