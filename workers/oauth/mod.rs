//! OAuth for servers behind URLs: authorization in a browser, storage of tokens, and refresh.
//!
//! `client` and `token_source` know nothing of the running servers. Connections use `token_source`,
//! and the other files execute the commands of the area `oauth`.

pub mod browser_flow;
pub mod client;
pub mod limits;
pub mod links;
pub mod refresh;
pub mod token_source;
pub mod tokens;
