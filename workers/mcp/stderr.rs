//! Reads the standard error of a child line by line. A child that prints too much is slowed down.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::host::{LogSource, LogText, NotificationSink};
use super::jsonrpc::note;
use crate::time::clock::monotonic;

/// Bytes that are read in one second. A child that prints more waits.
const BYTES_PER_SECOND: usize = 1 << 20;
/// Bytes of one line that are kept.
const LINE_LIMIT: usize = 64 * 1024;

/// Logs every line until the standard error ends.
pub(super) async fn read_stderr(stderr: impl AsyncRead + Unpin, sink: Arc<dyn NotificationSink>) {
    let mut stderr = BufReader::with_capacity(LINE_LIMIT, stderr);
    let mut text = Vec::new();
    let mut bytes_read = 0;
    let mut second_start = monotonic();
    loop {
        let Ok(buffer) = stderr.fill_buf().await else {
            return;
        };
        if buffer.is_empty() {
            log_line(&*sink, &text);
            return;
        }
        let newline = memchr::memchr(b'\n', buffer);
        let length = newline.map_or(buffer.len(), |end| end + 1);
        let space = LINE_LIMIT
            .saturating_sub(text.len())
            .min(newline.unwrap_or(length));
        text.extend_from_slice(&buffer[..space]);
        stderr.consume(length);
        bytes_read += length;
        if newline.is_some() {
            log_line(&*sink, &text);
            text.clear();
        }
        if second_start.elapsed() >= Duration::from_secs(1) {
            bytes_read = 0;
            second_start = monotonic();
        } else if bytes_read > BYTES_PER_SECOND {
            note(
                &*sink,
                "the server floods its standard error; it is being slowed down",
            );
            tokio::time::sleep_until(second_start + Duration::from_secs(1)).await;
        }
    }
}

fn log_line(sink: &dyn NotificationSink, bytes: &[u8]) {
    let bytes = bytes.trim_ascii_end();
    if bytes.is_empty() {
        return;
    }
    if bytes.len() >= LINE_LIMIT {
        return sink.log(LogSource::Stderr, LogText::Cut(bytes));
    }
    sink.log(
        LogSource::Stderr,
        LogText::Plain(&String::from_utf8_lossy(bytes)),
    );
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::RecordingSink;
    use super::*;

    #[tokio::test]
    async fn lines_are_logged_without_empty_ones_and_with_the_last() {
        let sink = Arc::<RecordingSink>::default();
        let text: &[u8] = b"first\r\n\n  second\nlast";
        read_stderr(text, sink.clone()).await;
        assert_eq!(
            sink.lines(),
            ["stderr: first", "stderr:   second", "stderr: last"]
        );
    }

    #[tokio::test]
    async fn a_long_line_is_cut() {
        let sink = Arc::<RecordingSink>::default();
        let text = format!("{}\nnext\n", "x".repeat(3 * LINE_LIMIT));
        read_stderr(text.as_bytes(), sink.clone()).await;
        let lines = sink.lines();
        assert_eq!(lines[0].len(), "stderr: ".len() + LINE_LIMIT);
        assert_eq!(lines[1], "stderr: next");
    }
}
