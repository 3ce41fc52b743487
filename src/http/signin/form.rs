//! The protection of forms: a page of another site cannot send them.
//!
//! A cookie holds a random text, and every form holds the signature of this text and of the session. A page of another
//! site can neither read the signature nor make the browser send the cookie (`SameSite=Lax`).

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::header::{HeaderMap, SET_COOKIE};
use axum::response::Response;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde::Deserialize;
use url::form_urlencoded;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::session::{SESSION_LIFETIME, SignedIn};
use crate::core::failure::{Code, Failure};
use crate::http::extract::headers::{FetchSite, has_media_type};
use crate::http::extract::json::read_bytes;
use crate::http::respond::cookie::SignedCookie;
use crate::http::respond::html::HtmlError;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;

/// The name of the field that protects a form.
pub(crate) const FORM_TOKEN: &str = "form_token";
/// The purpose of the signature.
const PURPOSE: &str = "form token";
/// The largest form in bytes.
const MAX_FORM: usize = 64 << 10;

const COOKIE: SignedCookie = SignedCookie {
    name: "mcp_api_form",
    path: "/",
    purpose: "form cookie",
    lifetime: SESSION_LIFETIME,
};

/// The protection of the forms of one browser.
pub(crate) struct FormGuard {
    nonce: Uuid,
}

impl FormGuard {
    /// Returns the protection that the browser has, else a new protection.
    pub(crate) fn from_headers(state: &ApiState, headers: &HeaderMap) -> Self {
        let nonce = COOKIE.read(state, headers);
        Self {
            nonce: nonce.unwrap_or_else(Uuid::new_v4),
        }
    }

    /// Returns the value of the field `form_token`.
    ///
    /// # Errors
    /// `internal` if the value cannot be signed.
    pub(crate) fn token(
        &self,
        state: &ApiState,
        signed_in: Option<&SignedIn>,
    ) -> Result<String, Failure> {
        let text = signed_text(self.nonce, signed_in);
        let signature = state.sealer().sign(PURPOSE, &text);
        Ok(URL_SAFE.encode(signature.map_err(internal_error)?))
    }

    /// Adds the cookie to a page with forms.
    ///
    /// # Errors
    /// `internal` if the cookie cannot be signed.
    pub(crate) fn protect(
        &self,
        state: &ApiState,
        mut response: Response,
    ) -> Result<Response, Failure> {
        let cookie = COOKIE.issue(state, &self.nonce)?;
        response.headers_mut().append(SET_COOKIE, cookie);
        Ok(response)
    }
}

fn signed_text(nonce: Uuid, signed_in: Option<&SignedIn>) -> String {
    let session = signed_in.map(|signed_in| signed_in.session);
    serde_json::json!([nonce, session]).to_string()
}

/// The fields of a form.
pub(crate) struct FormFields(Vec<(String, Zeroizing<String>)>);

impl FormFields {
    /// Returns a field. A missing field is empty.
    pub(crate) fn get(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(found, _)| found == name);
        field.map_or("", |(_, value)| value.as_str())
    }

    /// Checks that this browser got the form from a page of this program, in this session.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn check(
        &self,
        state: &ApiState,
        headers: &HeaderMap,
        signed_in: Option<&SignedIn>,
    ) -> Result<(), Failure> {
        let is_valid = || {
            let nonce: Uuid = COOKIE.read(state, headers)?;
            let signature = URL_SAFE.decode(self.get(FORM_TOKEN)).ok()?;
            let text = signed_text(nonce, signed_in);
            let is_signed = state.sealer().is_signed(PURPOSE, &text, &signature);
            is_signed.then_some(())
        };
        is_valid().ok_or_else(|| {
            Failure::new(
                Code::Forbidden,
                "This form is too old, or this browser did not load it here; open the page again",
            )
        })
    }
}

impl FromRequest<Arc<ApiState>> for FormFields {
    type Rejection = HtmlError;

    async fn from_request(request: Request, state: &Arc<ApiState>) -> Result<Self, HtmlError> {
        check_same_origin(request.headers())?;
        check_is_form(request.headers())?;
        let limit = state.payload_limit().min(MAX_FORM);
        let bytes = read_bytes(request, limit).await?;
        let fields = form_urlencoded::parse(&bytes)
            .map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned())))
            .collect();
        Ok(Self(fields))
    }
}

/// Checks that a browser with Fetch Metadata sends the form from a page of this origin.
fn check_same_origin(headers: &HeaderMap) -> Result<(), Failure> {
    match FetchSite::from_headers(headers) {
        FetchSite::Unknown | FetchSite::None | FetchSite::SameOrigin => Ok(()),
        FetchSite::SameSite | FetchSite::CrossSite | FetchSite::Other => Err(Failure::new(
            Code::Forbidden,
            "A page of another site sent this form; open the page of this API directly",
        )),
    }
}

fn check_is_form(headers: &HeaderMap) -> Result<(), Failure> {
    if has_media_type(headers, "application/x-www-form-urlencoded") {
        return Ok(());
    }
    Err(Failure::new(
        Code::UnsupportedMediaType,
        "The body must be a form, with the header Content-Type: application/x-www-form-urlencoded",
    ))
}

/// A form with a button alone.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ButtonForm {
    /// The hidden field of the page.
    #[allow(dead_code)]
    form_token: String,
}
