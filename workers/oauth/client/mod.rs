//! What is said to authorization servers (OAuth 2.1 as MCP has it, 2025-11-25): where they are, and how tokens are got.
//!
//! Written here and not taken from a library: the one at hand brings a second HTTP client and second versions of
//! other libraries, bounds no answer, and does not tell a refused connection from one that broke off, on which it
//! hangs whether a refresh token may be used again.

mod discovery;
mod fetch;
mod register;
mod token;
pub mod www_authenticate;

pub use self::discovery::{AuthorizationServer, allowed, discover};
pub use self::register::register_client;
pub use self::token::{TokenOutcome, TokenResponse, exchange, header, refresh};
pub use self::www_authenticate::parameter;
