//! `mcp-api events`: prints the events of the log as JSON, one per line, and follows the log.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use tokio::time::timeout;

use super::client::send_for_success;
use super::client::{ApiArgs, ApiClient, ClientError, block_on, open_stream, query};
use super::error::CommandResult;
use super::output::try_print_line;
use super::retry::Outage;
use crate::time::retry::API_FOLLOW;
use crate::workers::mcp::http::sse::SseReader;

/// After this long without an event, the command connects again, because a lost connection is silent.
const QUIET: Duration = Duration::from_secs(300);
/// The most bytes of one event.
const EVENT_LIMIT: usize = 64 << 20;

#[derive(Args)]
pub struct EventsArgs {
    /// Show new events until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only events after this event, such as 12.0; without it, from the beginning of the log
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Only events of this subject, such as server/everything
    #[arg(long)]
    subject: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Prints the events. A reader that closes the pipe ends the command.
pub fn run(args: &EventsArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        if args.follow {
            follow(&api, args).await?;
        } else {
            print_pages(&api, args).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints the events up to the end of the log.
async fn print_pages(api: &ApiClient, args: &EventsArgs) -> Result<(), ClientError> {
    let mut after = args.after.clone();
    loop {
        let parameters = query(&[
            ("limit", Some("1000")),
            ("after", after.as_deref()),
            ("subject", args.subject.as_deref()),
        ]);
        let path = format!("/events{parameters}");
        let body = send_for_success(api, Method::GET, &path, None).await?;
        for event in body["events"].as_array().into_iter().flatten() {
            if try_print_line(event).is_err() {
                return Ok(());
            }
        }
        // At the end of the log, `next` does not change.
        let next = body["next"].as_str().map(str::to_owned);
        if next.is_none() || next == after {
            return Ok(());
        }
        after = next;
    }
}

/// Prints events until the reader closes the pipe. The first connection must succeed. A connection that ends is opened
/// again after the last complete event, so each event is printed once.
async fn follow(api: &ApiClient, args: &EventsArgs) -> Result<(), ClientError> {
    let path = format!("/events{}", query(&[("subject", args.subject.as_deref())]));
    let mut last = args.after.clone();
    let mut is_first = true;
    let mut pauses = API_FOLLOW.pauses();
    let outage = Outage::default();
    loop {
        match open_stream(api, &path, last.as_deref()).await {
            Ok(response) => {
                outage.end();
                let mut events = SseReader::new(response, EVENT_LIMIT);
                while let Ok(Ok(Some(event))) = timeout(QUIET, events.next()).await {
                    let text = String::from_utf8_lossy(&event.data);
                    if try_print_line(text).is_err() {
                        return Ok(());
                    }
                    last = events.last_id().map(str::to_owned).or(last);
                }
            }
            Err(error) if error.is_temporary() && !is_first => outage.report(&error),
            Err(error) => return Err(error),
        }
        is_first = false;
        pauses.wait().await;
    }
}
