//! A server's last lines: what it printed and what happened to it, kept across reconnects.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

use crate::core::model::server::LogLine;
use crate::time::clock::now_ms;
use crate::workers::redact::Redactor;

/// Lines kept.
const LINES: usize = 200;
/// Characters of a line that are kept.
const WIDTH: usize = 4096;

#[derive(Default)]
pub struct LogBuffer(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    shown: VecDeque<LogLine>,
    /// While somebody holds lines back they gather here, whole.
    back: VecDeque<LogLine>,
    holds: usize,
}

impl Lines {
    fn show(&mut self, mut line: LogLine) {
        line.text.truncate(line.text.floor_char_boundary(WIDTH));
        if self.shown.len() == LINES {
            self.shown.pop_front();
        }
        self.shown.push_back(line);
    }
}

impl LogBuffer {
    /// Adds a line whose secrets are masked already.
    pub fn push(&self, source: &str, text: &str) {
        let mut lines = self.lock();
        let held = lines.holds > 0;
        let text = if held { text } else { shorten(text, WIDTH) }.to_owned();
        let line = LogLine {
            at: now_ms(),
            source: source.to_owned(),
            text,
        };
        match held {
            false => lines.show(line),
            true if lines.back.len() < LINES => lines.back.push_back(line),
            true => {}
        }
    }

    /// Shows no line that comes from now on before the end of this hold: what is secret in it becomes known only
    /// then.
    pub fn hold_back<'a>(&'a self, redactor: &'a Redactor) -> HoldGuard<'a> {
        self.lock().holds += 1;
        HoldGuard {
            log_buffer: self,
            redactor,
        }
    }

    pub fn lines(&self) -> Vec<LogLine> {
        self.lock().shown.iter().cloned().collect()
    }

    /// Returns the last lines that the server printed since a moment, for the `details` of an error.
    pub fn stderr_since(&self, at: u64) -> Option<String> {
        let lines = self.lock();
        let mut tail: Vec<&str> = lines
            .shown
            .iter()
            .rev()
            .filter(|line| matches!(line.source.as_str(), "stderr" | "stdout") && line.at >= at)
            .map(|l| l.text.as_str())
            .take(20)
            .collect();
        tail.reverse();
        (!tail.is_empty()).then(|| tail.join("\n"))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps lines back until it is dropped; then they are masked once more and shown.
pub struct HoldGuard<'a> {
    log_buffer: &'a LogBuffer,
    redactor: &'a Redactor,
}

impl Drop for HoldGuard<'_> {
    fn drop(&mut self) {
        let mut lines = self.log_buffer.lock();
        lines.holds -= 1;
        if lines.holds > 0 {
            return;
        }
        for mut line in std::mem::take(&mut lines.back) {
            let masked = self.redactor.mask_json(&line.text);
            std::mem::replace(&mut line.text, masked).zeroize();
            lines.show(line);
        }
    }
}

/// At most `limit` bytes, cut between characters.
pub fn shorten(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::ValueId;
    use uuid::Uuid;

    #[test]
    fn lines_that_are_held_back_are_masked_before_they_are_shown() {
        let (log_buffer, redactor) = (LogBuffer::default(), Redactor::default());
        log_buffer.push("stderr", "before");
        let (first, second) = (
            log_buffer.hold_back(&redactor),
            log_buffer.hold_back(&redactor),
        );
        log_buffer.push(
            "stderr",
            &format!("{}got s3cret-token", "x".repeat(WIDTH - 8)),
        );
        drop(first);
        redactor.hold(ValueId(Uuid::nil()), "s3cret-token");
        assert_eq!(
            (
                log_buffer.lines().len(),
                log_buffer.stderr_since(0).as_deref()
            ),
            (1, Some("before"))
        );
        drop(second);
        log_buffer.push("stderr", "after");
        let shown: Vec<_> = log_buffer
            .lines()
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert!(
            shown[1].ends_with("xgot ***") && shown[1].len() == WIDTH - 1,
            "{}",
            shown[1]
        );
        assert_eq!((shown[0].as_str(), shown[2].as_str()), ("before", "after"));
    }
}
