//! Extractors: each reads one part of a request and refuses it with a failure of the API.

pub mod callback;
pub mod headers;
pub mod idempotency;
pub mod json;
pub mod path;
pub mod query;
