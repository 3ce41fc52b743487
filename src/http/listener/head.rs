//! Reads the first request head of a connection into a small buffer.

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::rejection::Rejection;

/// The most bytes of a request head, the request line included.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// The first buffer. Most heads fit, and an unfinished head costs no more.
const FIRST_BUFFER: usize = 1 << 10;

/// The state of a head after some bytes.
#[derive(Debug, PartialEq, Eq)]
enum HeadState {
    Incomplete,
    /// The head is complete, or it can never become a valid head. The HTTP parser decides.
    Parseable,
    TooLarge(Rejection),
}

/// Reads until the head is complete. Returns `None` if the client disconnects first. `buffer` holds
/// the bytes that have arrived, also if the call is dropped.
///
/// # Errors
/// Returns the rejection for a head that is too large.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Result<Option<()>, Rejection> {
    buffer.reserve_exact(FIRST_BUFFER);
    loop {
        let searched = buffer.len();
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
        match head_state(buffer, searched) {
            HeadState::Incomplete => {}
            HeadState::Parseable => return Ok(Some(())),
            HeadState::TooLarge(rejection) => return Err(rejection),
        }
    }
}

/// Returns the state of a head whose first `searched` bytes hold no end of a head.
fn head_state(head: &[u8], searched: usize) -> HeadState {
    // The end of the head may begin in the bytes that were searched before.
    let start = searched.saturating_sub(3);
    let tail = &head[start..];
    let is_complete =
        memmem::find(tail, b"\n\r\n").is_some() || memmem::find(tail, b"\n\n").is_some();
    if is_complete || !starts_like_a_request(head) {
        return HeadState::Parseable;
    }
    if head.len() < MAX_HEAD {
        return HeadState::Incomplete;
    }
    let is_line_complete = memchr::memchr(b'\n', head).is_some();
    HeadState::TooLarge(if is_line_complete {
        Rejection::HeadersTooLarge
    } else {
        Rejection::TargetTooLong
    })
}

/// Returns whether the first bytes can be the method of a request. TLS and other protocols end
/// here, and not only after the timeout.
fn starts_like_a_request(head: &[u8]) -> bool {
    head.iter()
        .skip_while(|byte| matches!(byte, b'\r' | b'\n'))
        .take_while(|byte| **byte != b' ')
        .take(32)
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut bytes: &[u8]) -> (Result<Option<()>, Rejection>, Vec<u8>) {
        let mut buffer = Vec::new();
        let result = read_head(&mut bytes, &mut buffer).await;
        (result, buffer)
    }

    #[tokio::test]
    async fn a_complete_head_is_returned_with_the_bytes_after_it() {
        let request = b"POST / HTTP/1.1\r\nhost: h\r\n\r\n{}";
        let (result, buffer) = read(request).await;
        assert_eq!(result, Ok(Some(())));
        assert_eq!(buffer, request);
    }

    #[test]
    fn the_end_of_a_head_is_found_across_two_reads() {
        let head = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        for searched in 0..head.len() {
            assert_eq!(
                head_state(&head[..searched], 0),
                HeadState::Incomplete,
                "{searched}"
            );
            assert_eq!(
                head_state(head, searched),
                HeadState::Parseable,
                "{searched}"
            );
        }
    }

    #[tokio::test]
    async fn an_unfinished_head_ends_with_its_connection() {
        let (result, buffer) = read(b"GET / HTTP/1.1\r\nhost").await;
        assert_eq!(result, Ok(None));
        assert!(buffer.capacity() <= 2 * FIRST_BUFFER);
    }

    #[tokio::test]
    async fn another_protocol_goes_to_the_parser_at_once() {
        let (result, _) = read(b"\x16\x03\x01\x02\x00\x01").await;
        assert_eq!(result, Ok(Some(())));
    }

    #[tokio::test]
    async fn a_long_target_and_long_headers_get_different_rejections() {
        let target = format!("GET /{}", "a".repeat(MAX_HEAD));
        let (result, _) = read(target.as_bytes()).await;
        assert_eq!(result, Err(Rejection::TargetTooLong));
        let headers = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(MAX_HEAD));
        let (result, buffer) = read(headers.as_bytes()).await;
        assert_eq!(result, Err(Rejection::HeadersTooLarge));
        assert!(buffer.capacity() <= 4 * MAX_HEAD);
    }
}
