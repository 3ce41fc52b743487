//! Sends requests to authorization servers (OAuth 2.1 as in MCP 2025-11-25): discovery, registration
//! and token requests.
//!
//! The program does not use an OAuth library, because the token requests must distinguish a refused
//! connection from an interrupted one. This difference decides whether a refresh token may be used
//! again.

mod address;
mod discovery;
mod fetch;
mod lenient;
mod register;
mod token;
pub mod www_authenticate;

pub use self::discovery::{AuthorizationServer, discover, require_secure};
pub use self::fetch::{Fetcher, error_text};
pub use self::register::register_client;
pub use self::token::{TokenOutcome, TokenResponse, exchange, refresh};

/// Returns the beginning of a text with at most `limit` bytes, cut between characters.
pub fn shorten(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
