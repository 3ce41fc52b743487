//! The last log lines of one server: its output and the events of its connection, kept across reconnects.

use std::collections::VecDeque;

use parking_lot::Mutex;
use zeroize::Zeroize;

use crate::core::model::server::LogLine;
use crate::time::clock::now_ms;
use crate::workers::redact::{Redactor, off_runtime};

/// Lines kept.
const LINES: usize = 200;
/// Rounds in which a guard masks held lines without the lock. It masks the lines after that with the lock.
const UNLOCKED_ROUNDS: usize = 3;
/// Bytes of a line that are kept.
const WIDTH: usize = 4096;
/// Lines at the beginning of a run that are kept until the next run begins.
const HEAD: usize = 10;
/// Lines at the end that `details` show.
const TAIL: usize = 20;
/// Lines between head and tail that are kept because they name a variable.
const NAMING: usize = 5;

#[derive(Default)]
pub struct LogBuffer(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    /// The number of the next line.
    next: u64,
    shown: VecDeque<NumberedLine>,
    /// Lines of the program's output that explain why a start failed.
    head: RunHead,
    /// Whole lines that arrived while a hold is active.
    held: VecDeque<LogLine>,
    holds: usize,
}

struct NumberedLine {
    number: u64,
    line: LogLine,
}

/// The first output lines of a run, and the lines that name a variable.
#[derive(Default)]
struct RunHead {
    /// The number of the first line of the run.
    start: u64,
    first: Vec<(u64, String)>,
    naming: Vec<(u64, String)>,
}

impl Lines {
    fn show(&mut self, mut line: LogLine) {
        line.text.truncate(line.text.floor_char_boundary(WIDTH));
        let number = self.next;
        self.next += 1;
        if is_output(&line) {
            self.head.add(number, &line.text);
        }
        if self.shown.len() == LINES {
            self.shown.pop_front();
        }
        self.shown.push_back(NumberedLine { number, line });
    }

    /// Returns the last output lines since a moment, from a line on.
    fn last_output(&self, since_ms: u64, first: u64) -> Vec<&NumberedLine> {
        let output = self.shown.iter().rev();
        let output = output.filter(|shown| {
            is_output(&shown.line) && shown.line.at >= since_ms && shown.number >= first
        });
        let mut tail: Vec<_> = output.take(TAIL).collect();
        tail.reverse();
        tail
    }
}

impl RunHead {
    fn add(&mut self, number: u64, text: &str) {
        if self.first.len() < HEAD {
            self.first.push((number, text.to_owned()));
        } else if self.naming.len() < NAMING && names_a_variable(text) {
            self.naming.push((number, text.to_owned()));
        }
    }
}

impl LogBuffer {
    /// Adds a line. The caller has masked its secrets.
    pub fn push(&self, source: &str, text: &str) {
        let mut lines = self.0.lock();
        let is_held = lines.holds > 0;
        let text = if is_held { text } else { shorten(text, WIDTH) };
        let line = LogLine {
            at: now_ms(),
            source: source.to_owned(),
            text: text.to_owned(),
        };
        if !is_held {
            lines.show(line);
        } else if lines.held.len() < LINES {
            lines.held.push_back(line);
        }
    }

    /// Holds back all lines until the result is dropped, because their secrets become known only then.
    pub fn hold_back<'a>(&'a self, redactor: &'a Redactor) -> HoldGuard<'a> {
        self.0.lock().holds += 1;
        HoldGuard {
            log_buffer: self,
            redactor,
        }
    }

    /// Returns the lines that are kept, oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        let lines = self.0.lock();
        lines.shown.iter().map(|shown| shown.line.clone()).collect()
    }

    /// Begins a run of the program: its first lines are kept until the next run.
    pub fn begin_run(&self) {
        let mut lines = self.0.lock();
        lines.head = RunHead {
            start: lines.next,
            ..RunHead::default()
        };
    }

    /// Returns the last output lines since a moment in milliseconds since 1970, for the `details` of an error.
    pub fn output_since(&self, since_ms: u64) -> Option<String> {
        let lines = self.0.lock();
        let tail = lines.last_output(since_ms, 0).into_iter();
        let tail: Vec<_> = tail.map(|shown| shown.line.text.as_str()).collect();
        (!tail.is_empty()).then(|| tail.join("\n"))
    }

    /// Returns the first output lines of this run, the lines that name a variable and the last lines, for the
    /// `details` of a start that failed. `…` marks a gap.
    pub fn output_of_run(&self, since_ms: u64) -> Option<String> {
        let lines = self.0.lock();
        let head = lines.head.first.iter().chain(&lines.head.naming);
        let mut chosen: Vec<(u64, &str)> = head
            .map(|(number, text)| (*number, text.as_str()))
            .collect();
        let tail = lines.last_output(since_ms, lines.head.start).into_iter();
        chosen.extend(tail.map(|shown| (shown.number, shown.line.text.as_str())));
        chosen.sort_unstable();
        chosen.dedup();
        let mut text = String::new();
        let mut expected = None;
        for (number, line) in chosen {
            if expected.is_some_and(|expected| expected != number)
                && has_gap(&lines, expected, number)
            {
                text.push_str("…\n");
            }
            text.push_str(line);
            text.push('\n');
            expected = Some(number + 1);
        }
        text.pop();
        (!text.is_empty()).then_some(text)
    }
}

/// Whether output lines between two numbers are missing. Events of the connection are no output.
fn has_gap(lines: &Lines, from: Option<u64>, to: u64) -> bool {
    let from = from.unwrap_or(to);
    let between = lines.shown.iter();
    let mut between = between.filter(|shown| (from..to).contains(&shown.number));
    let kept = between.clone().count() as u64;
    kept < to - from || between.any(|shown| is_output(&shown.line))
}

fn is_output(line: &LogLine) -> bool {
    line.source == "stderr" || line.source == "stdout"
}

/// Whether a text contains a name such as `GITHUB_TOKEN`.
fn names_a_variable(text: &str) -> bool {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .any(|name| {
            let is_upper = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
            name.len() >= 5
                && name.as_bytes()[0].is_ascii_uppercase()
                && name.contains('_')
                && name.bytes().all(|byte| is_upper(byte) || byte == b'_')
        })
}

/// Holds lines back until it is dropped. Then it masks the lines once more and shows them.
pub struct HoldGuard<'a> {
    log_buffer: &'a LogBuffer,
    redactor: &'a Redactor,
}

impl Drop for HoldGuard<'_> {
    fn drop(&mut self) {
        let mut lines = self.log_buffer.0.lock();
        // Other tasks wait for the lock, so this thread does not hold it while it masks lines. A server may add lines in this time.
        for _ in 0..UNLOCKED_ROUNDS {
            if lines.holds > 1 || lines.held.is_empty() {
                break;
            }
            let held = std::mem::take(&mut lines.held);
            drop(lines);
            let masked = self.all_masked(held);
            lines = self.log_buffer.0.lock();
            masked.into_iter().for_each(|line| lines.show(line));
        }
        lines.holds -= 1;
        if lines.holds > 0 {
            return;
        }
        let held = std::mem::take(&mut lines.held);
        for line in self.all_masked(held) {
            lines.show(line);
        }
    }
}

impl HoldGuard<'_> {
    fn all_masked(&self, lines: VecDeque<LogLine>) -> Vec<LogLine> {
        let bytes = lines.iter().map(|line| line.text.len()).sum();
        off_runtime(bytes, || {
            lines.into_iter().map(|line| self.masked(line)).collect()
        })
    }

    fn masked(&self, mut line: LogLine) -> LogLine {
        let masked = self.redactor.mask_json(&line.text);
        std::mem::replace(&mut line.text, masked).zeroize();
        line
    }
}

/// Returns at most `limit` bytes of a text, cut between characters.
pub fn shorten(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::ValueId;
    use uuid::Uuid;

    fn texts(log_buffer: &LogBuffer) -> Vec<String> {
        let lines = log_buffer.lines().into_iter();
        lines.map(|line| line.text).collect()
    }

    #[test]
    fn held_lines_are_masked_before_they_are_shown() {
        let log_buffer = LogBuffer::default();
        let redactor = Redactor::default();
        log_buffer.push("stderr", "before");
        let first = log_buffer.hold_back(&redactor);
        let second = log_buffer.hold_back(&redactor);
        let line = format!("{}got s3cret-token", "x".repeat(WIDTH - 8));
        log_buffer.push("stderr", &line);
        drop(first);
        redactor.hold(ValueId(Uuid::nil()), "s3cret-token");
        assert_eq!(texts(&log_buffer), ["before"]);
        drop(second);
        log_buffer.push("stderr", "after");
        let shown = texts(&log_buffer);
        assert_eq!((shown[0].as_str(), shown[2].as_str()), ("before", "after"));
        assert!(shown[1].ends_with("xgot ***"), "{}", shown[1]);
        assert_eq!(shown[1].len(), WIDTH - 1);
    }

    #[test]
    fn details_of_a_start_keep_the_first_lines_and_the_line_that_names_the_variable() {
        let log_buffer = LogBuffer::default();
        log_buffer.push("stderr", "a line of the run before");
        log_buffer.begin_run();
        let since = now_ms();
        log_buffer.push("stdout", "first: hello");
        for number in 1..500 {
            let line = match number {
                100 => "Error: the variable SHOP_API_KEY is required".to_owned(),
                number => format!("    at frame {number}"),
            };
            log_buffer.push("stderr", &line);
        }
        let details = log_buffer.output_of_run(since).expect("details");
        let lines: Vec<_> = details.lines().collect();
        assert_eq!(lines[0], "first: hello");
        assert_eq!(
            lines[HEAD..HEAD + 3],
            ["…", "Error: the variable SHOP_API_KEY is required", "…"]
        );
        assert_eq!(lines.last(), Some(&"    at frame 499"));
        assert_eq!(lines.len(), HEAD + 3 + TAIL);
    }

    #[test]
    fn details_of_a_second_process_leave_out_the_first() {
        let log_buffer = LogBuffer::default();
        log_buffer.push("stderr", "the first process");
        log_buffer.begin_run();
        assert_eq!(log_buffer.output_of_run(0), None);
        log_buffer.push("stderr", "the second process");
        let details = log_buffer.output_of_run(0);
        assert_eq!(details.as_deref(), Some("the second process"));
        let since = log_buffer.output_since(0).expect("lines");
        assert_eq!(since, "the first process\nthe second process");
    }

    #[test]
    fn details_of_a_short_start_have_no_gap() {
        let log_buffer = LogBuffer::default();
        log_buffer.begin_run();
        log_buffer.push("stdout", "one");
        log_buffer.push("transport", "connected");
        log_buffer.push("stderr", "two");
        assert_eq!(log_buffer.output_of_run(0).as_deref(), Some("one\ntwo"));
        assert_eq!(log_buffer.output_since(0).as_deref(), Some("one\ntwo"));
        assert_eq!(log_buffer.output_since(u64::MAX), None);
    }
}
