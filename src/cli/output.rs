//! Prints to standard output.

use std::fmt::Display;
use std::io;
use std::io::Write;

use serde_json::Value;

/// Prints a line. If the reader has closed the pipe, the line is lost and the command continues, because its
/// work does not depend on the reader.
pub(super) fn print_line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints a text without an end of line, and shows it at once.
pub(super) fn print_text(text: impl Display) {
    let mut stdout = io::stdout();
    let _ = write!(stdout, "{text}");
    let _ = stdout.flush();
}

/// Prints a line.
///
/// # Errors
/// Fails if the line cannot be written.
pub(super) fn try_print_line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Returns a text that cannot control the terminal: another character replaces each control character.
pub(super) fn printable(text: &str) -> String {
    let replace = |c: char| {
        if c.is_control() && c != '\t' {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(replace).collect()
}

/// Returns the texts of a JSON list, separated by commas.
pub(super) fn joined(list: &Value) -> String {
    let texts = list.as_array().into_iter().flatten();
    let texts: Vec<_> = texts.filter_map(Value::as_str).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_server_cannot_control_the_terminal() {
        assert_eq!(
            printable("a\tb \u{1b}[2J\r\u{9b}"),
            "a\tb \u{fffd}[2J\u{fffd}\u{fffd}"
        );
    }
}
