//! Prints to standard output.

use std::fmt::Display;
use std::io;
use std::io::Write;

/// Prints a line. If the reader has closed the pipe, the line is lost and the command continues, because its
/// work does not depend on the reader.
pub fn print_line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints a text without an end of line, and shows it at once.
pub fn print_text(text: impl Display) {
    let mut stdout = io::stdout();
    let _ = write!(stdout, "{text}");
    let _ = stdout.flush();
}
