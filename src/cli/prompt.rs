//! Reads a secret value from a terminal without echo, or from standard input.

use std::io;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::thread;

use rustix::io::Errno;
use rustix::stdio;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::error::CliError;

/// The most bytes of one line of a terminal. Linux drops the rest without an error.
const TERMINAL_LINE: usize = 4095;

/// Reads a value, and cuts one line feed at its end. Returns `None` if a signal such as Ctrl-C ended the prompt.
pub(super) async fn read_secret(prompt: &str) -> Result<Option<Zeroizing<String>>, CliError> {
    let line = if io::stdin().is_terminal() {
        read_from_terminal(prompt).await?
    } else {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(CliError::Input)?;
        Some(bytes)
    };
    line.map(parse_value).transpose()
}

fn parse_value(mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, CliError> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(CliError::Failed("the value of the secret is empty".into()));
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(value) => Ok(Zeroizing::new(value)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            let why = "the value of the secret is not UTF-8; encode it, for example as base64";
            Err(CliError::Failed(why.into()))
        }
    }
}

async fn read_from_terminal(prompt: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CliError> {
    // The handlers exist before the echo ends, so that no signal ends the program without an echo.
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut quit = handler(SignalKind::quit())?;
    let mut terminate = handler(SignalKind::terminate())?;
    let mut hang_up = handler(SignalKind::hangup())?;
    let _silent = SilentTerminal::start().map_err(|error| CliError::Input(error.into()))?;
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{prompt}");
    let (sender, receiver) = oneshot::channel();
    // A thread, because the runtime would wait for its own blocking task after a signal.
    thread::spawn(move || sender.send(read_line()));
    tokio::select! {
        line = receiver => {
            let line = line.map_err(|_| CliError::Input(io::ErrorKind::BrokenPipe.into()))?;
            let line = line.map_err(CliError::Input)?;
            if line.len() >= TERMINAL_LINE {
                let why = "the value is too long for a terminal; pass it on standard input";
                return Err(CliError::Failed(why.into()));
            }
            Ok(Some(line))
        }
        _ = interrupt.recv() => Ok(None),
        _ = quit.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        _ = hang_up.recv() => Ok(None),
    }
}

fn handler(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(CliError::Signal)
}

fn read_line() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::new());
    io::stdin().lock().read_until(b'\n', &mut line)?;
    Ok(line)
}

/// The terminal of standard input without echo. Dropping it restores the earlier settings.
struct SilentTerminal(Termios);

impl SilentTerminal {
    fn start() -> Result<Self, Errno> {
        let earlier = tcgetattr(stdio::stdin())?;
        let mut silent = earlier.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // The line feed at the end is shown, so that the next text begins on its own line.
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(stdio::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(earlier))
    }
}

impl Drop for SilentTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_feed_at_the_end_is_no_part_of_a_value() {
        let parse = |bytes: &[u8]| {
            let value = parse_value(Zeroizing::new(bytes.to_vec()));
            value.map(|value| value.to_string()).ok()
        };
        assert_eq!(parse(b"v").as_deref(), Some("v"));
        assert_eq!(parse(b"v\n").as_deref(), Some("v"));
        assert_eq!(parse(b" v \n\n").as_deref(), Some(" v \n"));
        assert_eq!(parse(b"v\r\n").as_deref(), Some("v\r"));
        for refused in [&b""[..], b"\n", b"\xff"] {
            assert_eq!(parse(refused), None, "{refused:?}");
        }
    }
}
