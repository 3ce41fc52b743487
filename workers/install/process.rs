//! Runs one of the installers' programs under a guard: with the environment that children see and what installers are
//! told, without a shell, and never longer than its caller waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::{InstallContext, Installer};
use crate::workers::guard;
use crate::workers::guard::GuardedChild;

/// Last lines that are kept for whoever wants to know why.
const LINES: usize = 30;
/// Bytes of one line that are kept.
const WIDTH: usize = 500;
/// Bytes of a line that are masked before the line is cut to `WIDTH`.
const MAX_LINE: usize = 8 * 1024;
/// Bytes of an answer on standard output.
const ANSWER: usize = 1 << 20;
/// A guard that is told nothing ends its child after that time; the caller's limit is shorter.
const LIFE: Duration = Duration::from_secs(3600);

/// How a program ended.
pub struct ProcessOutput {
    /// Its standard output, from the beginning.
    pub answer: Vec<u8>,
    /// The last lines of both its outputs, credentials masked.
    pub lines: Vec<String>,
    pub how: ExitKind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ExitKind {
    Well,
    /// There is no such program.
    Missing,
    Badly,
}

struct OutputCollector {
    around: InstallContext,
    lines: Mutex<VecDeque<String>>,
}

/// Runs it to its end. Dropped, it is killed with all it has started. An error is the system's.
pub async fn run(
    installer: &Installer,
    around: &InstallContext,
    program: &str,
    args: &[&str],
    env: &[(&str, &str)],
) -> std::io::Result<ProcessOutput> {
    let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
    let own: Vec<_> = env
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let told = installer
        .packages
        .env
        .iter()
        .chain(&own)
        .map(|(name, value)| (name, value));
    let GuardedChild {
        stdin,
        stdout,
        stderr,
        mut process,
    } = guard::spawn(program, &args, told, LIFE)?;
    drop(stdin);
    let hearing = Arc::new(OutputCollector {
        around: around.clone(),
        lines: Mutex::default(),
    });
    let mut answer = Vec::new();
    let (told, complained) = tokio::join!(
        hear(stdout, Some(&mut answer), &hearing),
        hear(stderr, None, &hearing)
    );
    told.and(complained)?;
    let status = process.ended().await?;
    let lines: Vec<_> = hearing
        .lines
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
        .collect();
    let missing =
        status.code() == Some(127) && lines.iter().any(|line| line.starts_with("cannot start "));
    let how = if status.success() {
        ExitKind::Well
    } else if missing {
        ExitKind::Missing
    } else {
        ExitKind::Badly
    };
    Ok(ProcessOutput { answer, lines, how })
}

async fn hear(
    mut from: impl AsyncRead + Unpin,
    mut answer: Option<&mut Vec<u8>>,
    hearing: &OutputCollector,
) -> std::io::Result<()> {
    let (mut buffer, mut line) = (vec![0; 16 * 1024], Vec::new());
    loop {
        let read = from.read(&mut buffer).await?;
        let text = &buffer[..read];
        if let Some(answer) = &mut answer {
            let room = ANSWER.saturating_sub(answer.len()).min(read);
            answer.extend_from_slice(&text[..room]);
        }
        for &byte in text {
            match byte {
                b'\n' | b'\r' => hearing.line(&std::mem::take(&mut line)),
                byte if line.len() < MAX_LINE => line.push(byte),
                _ => {}
            }
        }
        if read == 0 {
            hearing.line(&line);
            return Ok(());
        }
    }
}

impl OutputCollector {
    fn line(&self, line: &[u8]) {
        let redactor = &self.around.redactor;
        let text = if line.len() < MAX_LINE {
            redactor.mask(&String::from_utf8_lossy(line))
        } else {
            redactor.mask_cut(line)
        };
        let text: String = text
            .trim_end()
            .chars()
            .filter(|c| !c.is_control())
            .take(WIDTH)
            .collect();
        if text.trim().is_empty() {
            return;
        }
        self.around.progress.line(&text);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}
