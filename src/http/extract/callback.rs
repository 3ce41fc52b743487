//! The query of a callback: an authorization server sends it through the user's browser.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use sha2::{Digest, Sha256};

use crate::core::failure::Failure;

/// The longest `code` or `state` in bytes.
const MAX_TEXT: usize = 4096;
/// The longest part of `error` that a page shows, in characters.
const MAX_REASON: usize = 40;

/// Returns a parameter of a callback.
///
/// # Errors
/// `invalid_request` if the parameter is missing or longer than 4096 bytes.
pub(crate) fn required_text(field: &str, value: Option<String>) -> Result<String, Failure> {
    value
        .filter(|text| text.len() <= MAX_TEXT)
        .ok_or_else(|| Failure::invalid(format!("{field} is missing")))
}

/// Returns the part of an `error` parameter that a page can show.
pub(crate) fn refusal_reason(error: &str) -> String {
    error
        .chars()
        .filter(|c| c.is_ascii_lowercase() || *c == '_')
        .take(MAX_REASON)
        .collect()
}

/// Returns the digest of a `state`. A cookie holds it, so that the cookie reveals no state.
pub(crate) fn state_digest(state: &str) -> String {
    URL_SAFE.encode(Sha256::digest(state))
}
