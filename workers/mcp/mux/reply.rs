//! The reply to a request, as the reader of the server's output passes it on.

use bytes::Bytes;

/// The server's reply to a request.
#[derive(Debug, PartialEq)]
pub enum RpcReply {
    /// The raw `result`.
    Result(Bytes),
    /// The raw `error`.
    Error(Bytes),
    /// The result is larger than `RESULT_LIMIT` and was not kept.
    TooLarge,
}
