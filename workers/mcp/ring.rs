//! A server's last lines: what it printed and what happened to it, kept across reconnects.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::server::LogLine;
use crate::execute::now_ms;

/// Lines kept.
const LINES: usize = 200;
/// Characters of a line that are kept.
const WIDTH: usize = 4096;

#[derive(Default)]
pub struct Ring(Mutex<VecDeque<LogLine>>);

impl Ring {
    /// Adds a line whose secrets are masked already.
    pub fn push(&self, source: &str, text: &str) {
        let text = shorten(text, WIDTH).to_owned();
        let line = LogLine { at: now_ms(), source: source.to_owned(), text };
        let mut lines = self.lock();
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    pub fn lines(&self) -> Vec<LogLine> {
        self.lock().iter().cloned().collect()
    }

    /// The last lines of standard error since a moment, for an error's `details`.
    pub fn stderr_since(&self, at: u64) -> Option<String> {
        let lines = self.lock();
        let mut tail: Vec<&str> = lines
            .iter()
            .rev()
            .filter(|l| l.source == "stderr" && l.at >= at)
            .map(|l| l.text.as_str())
            .take(20)
            .collect();
        tail.reverse();
        (!tail.is_empty()).then(|| tail.join("\n"))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<LogLine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most `limit` bytes, cut between characters.
pub fn shorten(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
