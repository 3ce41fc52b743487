//! Signed cookies: a browser that begins a sign-in must be the browser that ends it, and stays signed in.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{COOKIE, HeaderMap};
use cookie::{Cookie, SameSite};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::core::failure::Failure;
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;

/// The life of a signed link and of a sign-in.
pub(crate) const SIGN_IN_LIFETIME: Duration = Duration::from_secs(600);

/// A cookie that only this deployment can make. No script can read it, and the browser sends it
/// when a page of another site leads back to the pages under `path`.
pub(crate) struct SignedCookie {
    pub name: &'static str,
    /// The path of the pages, below the path of `PUBLIC_URL`.
    pub path: &'static str,
    /// The purpose of the signature.
    pub purpose: &'static str,
    /// The time after which the browser forgets the cookie.
    pub lifetime: Duration,
}

impl SignedCookie {
    /// Returns the header that sets the cookie for its lifetime.
    ///
    /// # Errors
    /// `internal` if the content cannot be signed.
    pub(crate) fn issue(
        &self,
        state: &ApiState,
        content: &impl Serialize,
    ) -> Result<HeaderValue, Failure> {
        let value = state
            .sealer()
            .sign_text(self.purpose, content)
            .map_err(internal_error)?;
        self.header(state, value, self.lifetime)
    }

    /// Returns the header that removes the cookie.
    ///
    /// # Errors
    /// `internal` if the header cannot be made.
    pub(crate) fn remove(&self, state: &ApiState) -> Result<HeaderValue, Failure> {
        self.header(state, String::new(), Duration::ZERO)
    }

    /// Returns the content of the browser's cookie, if this deployment signed it.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        state: &ApiState,
        headers: &HeaderMap,
    ) -> Option<T> {
        let value = find_cookie(headers, self.name)?;
        state.sealer().verify_text(self.purpose, &value)
    }

    /// Returns whether the browser sends the cookie, whatever the cookie contains.
    pub(crate) fn is_present(&self, headers: &HeaderMap) -> bool {
        find_cookie(headers, self.name).is_some()
    }

    fn header(
        &self,
        state: &ApiState,
        value: String,
        lifetime: Duration,
    ) -> Result<HeaderValue, Failure> {
        let public = state.access().public.as_ref();
        let prefix = public.map_or("", |public| public.path.as_str());
        let is_secure = public.is_some_and(|public| public.secure);
        let max_age = cookie::time::Duration::seconds(lifetime.as_secs() as i64);
        let cookie = Cookie::build((self.name, value))
            .path(format!("{prefix}{}", self.path))
            .max_age(max_age)
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(is_secure);
        HeaderValue::from_str(&cookie.to_string()).map_err(internal_error)
    }
}

/// Returns the seconds since 1970 at which a link or a sign-in that begins now expires.
pub(crate) fn sign_in_expiry() -> u64 {
    now_seconds() + SIGN_IN_LIFETIME.as_secs()
}

fn find_cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
        .map(|cookie| cookie.value().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("xa=1; a=2=3;b="));
        headers.append(COOKIE, HeaderValue::from_static("c=4"));
        assert_eq!(find_cookie(&headers, "a").as_deref(), Some("2=3"));
        assert_eq!(find_cookie(&headers, "b").as_deref(), Some(""));
        assert_eq!(find_cookie(&headers, "c").as_deref(), Some("4"));
        assert_eq!(find_cookie(&headers, "x"), None);
    }
}
