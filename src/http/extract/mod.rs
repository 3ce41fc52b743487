//! Extractors: each reads one part of a request and refuses it with a failure of the API.

pub(super) mod callback;
pub(super) mod headers;
pub(super) mod idempotency;
pub(super) mod json;
pub(super) mod path;
pub(super) mod query;
pub(super) mod server_page;
