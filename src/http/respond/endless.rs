//! Event streams without an end.

use axum::response::Response;

/// Marks a response whose body ends only with its client or the process. The listener sends such a body outside of the
/// HTTP parser, whose buffers would cost most of the memory of a quiet stream, and closes the connection behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endless;

impl Endless {
    /// Returns the response with this mark.
    pub(crate) fn mark(mut response: Response) -> Response {
        response.extensions_mut().insert(Self);
        response
    }
}
