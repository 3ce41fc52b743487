//! `mcp-api logs SERVER`: shows the last log lines of a server, and follows them.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, ApiClient, ClientError, block_on, path_segment, send_for_success};
use super::error::CommandResult;
use super::output::{printable, try_print_line};
use super::retry::Outage;
use crate::time::retry::API_FOLLOW;
use crate::time::rfc3339::format_ms;

#[derive(Args)]
pub struct LogsArgs {
    /// The name of the server
    server: String,
    /// Show new lines until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Prints the lines. A reader that closes the pipe ends the command.
pub fn run(args: &LogsArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let mut shown = read_lines(&api, &args.server).await?;
        if print_lines(&shown).is_err() || !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let mut pauses = API_FOLLOW.pauses();
        let outage = Outage::default();
        loop {
            pauses.wait().await;
            match read_lines(&api, &args.server).await {
                Ok(lines) => {
                    outage.end();
                    if print_lines(new_lines(&shown, &lines)).is_err() {
                        return Ok(ExitCode::SUCCESS);
                    }
                    shown = lines;
                }
                Err(error) if error.is_temporary() => outage.report(&error),
                Err(error) => return Err(error.into()),
            }
        }
    })
}

async fn read_lines(api: &ApiClient, server: &str) -> Result<Vec<Value>, ClientError> {
    let path = format!("/mcp/servers/{}", path_segment(server));
    let mut body = send_for_success(api, Method::GET, &path, None).await?;
    match body["server"]["logs"].take() {
        Value::Array(lines) => Ok(lines),
        _ => Err(ClientError::Refused(
            "the API shows logs to administrators only; use a token with the scope admin".into(),
        )),
    }
}

fn print_lines(lines: &[Value]) -> std::io::Result<()> {
    for line in lines {
        try_print_line(log_line(line))?;
    }
    Ok(())
}

fn log_line(line: &Value) -> String {
    let at = line["at"].as_u64().map(format_ms).unwrap_or_default();
    let source = line["source"].as_str().unwrap_or_default();
    let text = line["text"].as_str().unwrap_or_default();
    printable(&format!("{at}  {source:9}  {text}"))
}

/// Returns the lines that follow the shown lines. The API removes old lines at the beginning of its list.
fn new_lines<'a>(shown: &[Value], lines: &'a [Value]) -> &'a [Value] {
    let is_kept = |start: &usize| lines.starts_with(&shown[*start..]);
    let start = (0..shown.len()).find(is_kept).unwrap_or(shown.len());
    &lines[shown.len() - start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_after_the_shown_lines_are_new() {
        let new = |shown: &[u8], lines: &[u8]| {
            let values = |numbers: &[u8]| numbers.iter().map(|n| (*n).into()).collect();
            let (shown, lines): (Vec<Value>, Vec<Value>) = (values(shown), values(lines));
            let new = new_lines(&shown, &lines).iter();
            new.filter_map(Value::as_u64).collect::<Vec<_>>()
        };
        assert_eq!(new(&[], &[1, 2]), [1, 2]);
        assert_eq!(new(&[1, 2], &[1, 2]), [0; 0]);
        assert_eq!(new(&[1, 2], &[1, 2, 3]), [3]);
        assert_eq!(new(&[1, 2, 3], &[3, 4, 5]), [4, 5]);
        assert_eq!(new(&[1, 1], &[1, 1, 1]), [1]);
        // The server restarted elsewhere, with a new list.
        assert_eq!(new(&[1, 2], &[8, 9]), [8, 9]);
        assert_eq!(new(&[1, 2], &[]), [0; 0]);
    }
}
