//! Runs a program of an installer under a guard, without a shell. The program gets the environment
//! of all children and the variables for installers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{InstallContext, Installer};
use crate::workers::guard;
use crate::workers::guard::GuardedChild;

/// The last lines of the output that a failure can show.
const MAX_LINES: usize = 30;
/// The first error lines that are kept too, because npm and uv name the failed script there.
const MAX_FIRST_ERRORS: usize = 12;
/// The longest line in bytes that is masked. A longer line is cut.
const MAX_LINE: usize = 8 * 1024;
/// The characters of a masked line that are kept.
const WIDTH: usize = 500;
/// The largest standard output in bytes. The output after it is dropped.
const MAX_STDOUT: usize = 1 << 20;
/// The size of one read in bytes.
const READ_SIZE: usize = 16 * 1024;
/// The guard kills the program after this time. The time limits of the callers are shorter.
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// The exit code of a guard that cannot start the program.
const CANNOT_START: i32 = 127;

/// The output of a program that has exited.
pub struct ProcessOutput {
    /// The beginning of the standard output.
    pub stdout: Vec<u8>,
    /// The first error lines and the last lines of both outputs. Credentials are masked.
    pub lines: Vec<String>,
    pub exit: ExitKind,
}

/// The way in which a program has exited.
#[derive(Debug, PartialEq, Eq)]
pub enum ExitKind {
    Success,
    /// The program does not exist.
    NotFound,
    Failure,
}

/// Collects the lines of both outputs, and reports them as progress.
struct OutputCollector {
    context: InstallContext,
    lines: Mutex<CollectedLines>,
}

#[derive(Default)]
struct CollectedLines {
    first_errors: Vec<NumberedLine>,
    /// The package that pip has collected last. A failed build prints many lines after it.
    last_collected: Option<NumberedLine>,
    last: VecDeque<NumberedLine>,
    count: usize,
}

#[derive(Clone)]
struct NumberedLine {
    number: usize,
    text: String,
}

/// Runs a program until it exits. If the future is dropped, the guard kills the program and all
/// processes that it has started.
///
/// # Errors
/// Fails if the guard cannot be started, or if the output cannot be read.
pub async fn run(
    installer: &Installer,
    context: &InstallContext,
    program: &str,
    args: &[&str],
    variables: &[(&str, &str)],
) -> io::Result<ProcessOutput> {
    let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
    let configured = installer.packages.env.iter();
    let environment = configured
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .chain(variables.iter().copied());
    let GuardedChild {
        stdin,
        stdout,
        stderr,
        mut process,
    } = guard::spawn(program, &args, environment, || MAX_LIFE).await?;
    drop(stdin);
    let collector = Arc::new(OutputCollector {
        context: context.clone(),
        lines: Mutex::default(),
    });
    let mut beginning = Vec::new();
    let (stdout_read, stderr_read) = tokio::join!(
        read_output(stdout, Some(&mut beginning), &collector),
        read_output(stderr, None, &collector)
    );
    stdout_read.and(stderr_read)?;
    let status = process.ended().await?;
    let lines = collector.lines.lock().to_texts();
    let is_missing = status.code() == Some(CANNOT_START)
        && lines.iter().any(|line| line.starts_with("cannot start "));
    let exit = if status.success() {
        ExitKind::Success
    } else if is_missing {
        ExitKind::NotFound
    } else {
        ExitKind::Failure
    };
    Ok(ProcessOutput {
        stdout: beginning,
        lines,
        exit,
    })
}

/// Reads one output to its end, and copies its beginning into `copy`.
async fn read_output(
    mut output: impl AsyncRead + Unpin,
    mut copy: Option<&mut Vec<u8>>,
    collector: &OutputCollector,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_SIZE];
    let mut line = Vec::new();
    loop {
        let length = output.read(&mut buffer).await?;
        let bytes = &buffer[..length];
        if let Some(copy) = &mut copy {
            let free = MAX_STDOUT.saturating_sub(copy.len());
            copy.extend_from_slice(&bytes[..free.min(length)]);
        }
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => collector.add_line(&std::mem::take(&mut line)),
                byte if line.len() < MAX_LINE => line.push(byte),
                _ => {}
            }
        }
        if length == 0 {
            collector.add_line(&line);
            return Ok(());
        }
    }
}

impl OutputCollector {
    fn add_line(&self, line: &[u8]) {
        let redactor = &self.context.redactor;
        let text = if line.len() < MAX_LINE {
            redactor.mask(&String::from_utf8_lossy(line))
        } else {
            redactor.mask_cut(line)
        };
        let text: String = text
            .trim_end()
            .chars()
            .filter(|character| !character.is_control())
            .take(WIDTH)
            .collect();
        if text.trim().is_empty() {
            return;
        }
        self.context.progress.line(&text);
        self.lines.lock().add(text);
    }
}

impl CollectedLines {
    fn add(&mut self, text: String) {
        let line = NumberedLine {
            number: self.count,
            text,
        };
        self.count += 1;
        let is_error = is_npm_error(&line.text) || is_uv_error(&line.text);
        if is_error && self.first_errors.len() < MAX_FIRST_ERRORS {
            self.first_errors.push(line.clone());
        }
        if line.text.trim_start().starts_with("Collecting ") {
            self.last_collected = Some(line.clone());
        }
        if self.last.len() == MAX_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Returns the important lines that are not among the last lines, and then the last lines.
    fn to_texts(&self) -> Vec<String> {
        let first_of_last = self.last.front().map_or(0, |line| line.number);
        let important = self.first_errors.iter().chain(&self.last_collected);
        important
            .filter(|line| line.number < first_of_last)
            .chain(&self.last)
            .map(|line| line.text.clone())
            .collect()
    }
}

/// Returns whether npm marks a line as a part of an error.
pub fn is_npm_error(line: &str) -> bool {
    line.starts_with("npm error") || line.starts_with("npm ERR!")
}

/// Returns whether uv marks a line as an error or as the cause of an error. Older versions draw a tree.
pub(super) fn is_uv_error(line: &str) -> bool {
    let text = line.trim_start();
    line.starts_with("error: ")
        || line.starts_with("  cause: ")
        || text.starts_with("× ")
        || text.starts_with("├─▶ ")
        || text.starts_with("╰─▶ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_errors_and_the_last_lines_are_kept() {
        let mut lines = CollectedLines::default();
        lines.add("npm http fetch".into());
        lines.add("npm error command sh -c node install.js".into());
        lines.add("Collecting a".into());
        lines.add("Collecting b".into());
        for number in 0..100 {
            lines.add(format!("line {number}"));
        }
        let texts = lines.to_texts();
        assert_eq!(texts.len(), MAX_LINES + 2);
        assert_eq!(texts[0], "npm error command sh -c node install.js");
        assert_eq!(texts[1], "Collecting b");
        assert_eq!(texts[2], "line 70");
        assert_eq!(texts[MAX_LINES + 1], "line 99");
        let mut few = CollectedLines::default();
        few.add("npm error code 1".into());
        assert_eq!(few.to_texts(), ["npm error code 1"]);
    }
}
