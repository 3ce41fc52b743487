//! `mcp-api connections` and `mcp-api disconnect`: the values and grants of a user for each server, without the values.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, block_on, path_segment, query, send_for_success};
use super::error::CommandResult;
use super::output::{print_line, printable};

#[derive(Args)]
pub struct ConnectionsArgs {
    /// The user of the connections; without it, the caller, or `default` for an administrator
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Args)]
pub struct DisconnectArgs {
    /// The name of the server
    server: String,
    /// The user whose secrets and tokens are deleted; without it, the caller, or `default` for an administrator
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Prints one line per slot of each server, and one line for its OAuth or Google tokens.
pub fn list(args: &ConnectionsArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let path = format!(
            "/connections{}",
            query(&[("username", args.user.as_deref())])
        );
        let body = send_for_success(&api, Method::GET, &path, None).await?;
        let connections = body["connections"].as_array();
        let rows: Vec<_> = connections.into_iter().flatten().flat_map(rows).collect();
        for line in table(&rows) {
            print_line(line);
        }
        if rows.is_empty() {
            eprintln!("No server takes a secret or a token of the user.");
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub fn disconnect(args: &DisconnectArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let server = path_segment(&args.server);
        let query = query(&[("username", args.user.as_deref())]);
        let path = format!("/connections/{server}{query}");
        send_for_success(&api, Method::DELETE, &path, None).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The columns of a line: the server, the name of the value, its place, its state and its description.
type Row = [String; 5];

/// Returns the rows of one connection.
fn rows(connection: &Value) -> Vec<Row> {
    let server = text(connection, "serverName");
    let slots = connection["slots"].as_array().into_iter().flatten();
    let mut rows: Vec<_> = slots.map(|slot| slot_row(server, slot)).collect();
    for kind in ["oauth", "google"] {
        let authorization = &connection[kind];
        if authorization.is_object() {
            let state = authorization_state(authorization);
            rows.push(row([server, kind, "", &state, ""]));
        }
    }
    rows
}

fn slot_row(server: &str, slot: &Value) -> Row {
    let state = match (slot["set"] == true, slot["required"] == true) {
        (true, _) => format!("set {}", text(slot, "setAt")),
        (false, true) => "missing, required".to_owned(),
        (false, false) => "not set".to_owned(),
    };
    let location = if slot["owner"] == "shared" {
        format!("{} (shared)", text(slot, "in"))
    } else {
        text(slot, "in").to_owned()
    };
    let description = text(slot, "description");
    row([
        server,
        text(slot, "name"),
        &location,
        state.trim_end(),
        description,
    ])
}

fn authorization_state(authorization: &Value) -> String {
    if authorization["needsReauthorization"] == true {
        return "needs a new authorization".to_owned();
    }
    if authorization["connected"] != true {
        return "not connected".to_owned();
    }
    match authorization["expiresAt"].as_str() {
        Some(at) => format!("connected, access token expires {at}"),
        None => "connected".to_owned(),
    }
}

fn row(columns: [&str; 5]) -> Row {
    columns.map(printable)
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

/// Returns the lines of a table whose columns are as wide as their longest text.
fn table(rows: &[Row]) -> Vec<String> {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &Row| {
        let columns = row.iter().zip(widths);
        let padded: Vec<_> = columns
            .map(|(text, width)| format!("{text:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_slot_and_each_authorization_has_a_line() {
        let connection = json!({
            "serverName": "crm",
            "slots": [
                {
                    "name": "KEY", "in": "header", "required": true, "owner": "user",
                    "description": "A\u{1b}key", "set": false, "setAt": null,
                },
                {
                    "name": "ORG", "in": "argument", "required": true, "owner": "shared",
                    "description": null, "set": true, "setAt": "2026-01-31T12:00:00.000Z",
                },
                {
                    "name": "OTHER", "in": "query", "required": false, "owner": "user",
                    "description": null, "set": false, "setAt": null,
                },
            ],
            "oauth": { "connected": true, "expiresAt": "2026-02-01T12:00:00.000Z" },
            "google": { "connected": false, "needsReauthorization": true },
        });
        assert_eq!(
            table(&rows(&connection)),
            [
                "crm  KEY     header             missing, required                                         A\u{fffd}key",
                "crm  ORG     argument (shared)  set 2026-01-31T12:00:00.000Z",
                "crm  OTHER   query              not set",
                "crm  oauth                      connected, access token expires 2026-02-01T12:00:00.000Z",
                "crm  google                     needs a new authorization",
            ]
        );
    }
}
