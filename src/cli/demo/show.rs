//! What a viewer sees: numbered steps, the line that would do the same, and what came of it.

use std::cell::Cell;
use std::io;
use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::cli::client::{ApiClient, send};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Standard output, with styles where it is a terminal.
pub struct Show {
    styled: bool,
    steps: Cell<usize>,
}

impl Show {
    pub fn new() -> Self {
        Self {
            styled: io::stdout().is_terminal(),
            steps: Cell::new(0),
        }
    }

    pub fn title(&self, text: &str) {
        self.line(BOLD, text);
    }

    /// Begins the next step.
    pub fn step(&self, what: &str) {
        self.steps.set(self.steps.get() + 1);
        self.line("", "");
        self.line(BOLD, &format!("{}. {what}", self.steps.get()));
    }

    pub fn command(&self, line: &str) {
        self.line(DIM, &format!("   $ {line}"));
    }

    pub fn result(&self, text: &str) {
        self.line("", &format!("   {text}"));
    }

    pub fn line(&self, style: &str, text: &str) {
        let (on, off) = if self.styled && !style.is_empty() {
            (style, PLAIN)
        } else {
            ("", "")
        };
        // Whoever has closed our output does not want to see more; the program serves on.
        let _ = writeln!(io::stdout(), "{on}{text}{off}");
    }

    /// Shows the curl line of a request and sends it.
    pub async fn ask(
        &self,
        api: &ApiClient,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), String> {
        self.command(&curl(api, method, path, body.as_ref()));
        send(api, method, path, body).await
    }
}

/// This program as it was called.
pub fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "mcp-api".into())
}

/// The line that sends the same request from a shell.
pub fn curl(api: &ApiClient, method: &str, path: &str, body: Option<&Value>) -> String {
    let url = format!("{}{path}", api.url);
    let mut line = format!(
        "curl -s {}",
        if url.contains('?') { quoted(&url) } else { url }
    );
    if api.token.is_some() {
        line += r#" -H "Authorization: Bearer $ADMIN_TOKEN""#;
    }
    if !matches!((method, body), ("GET", None) | ("POST", Some(_))) {
        line += &format!(" -X {method}");
    }
    if let Some(body) = body {
        line += &format!(
            " -H 'Content-Type: application/json' -d {}",
            quoted(&body.to_string())
        );
    }
    line
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_curl_line_can_be_copied() {
        let mut api = ApiClient::new("http://h:1".into(), None);
        assert_eq!(
            curl(&api, "GET", "/events?limit=9", None),
            "curl -s 'http://h:1/events?limit=9'"
        );
        assert_eq!(
            curl(&api, "POST", "/p", Some(&json!({ "a": "it's" }))),
            r#"curl -s http://h:1/p -H 'Content-Type: application/json' -d '{"a":"it'\''s"}'"#
        );
        api.token = Some("not shown".into());
        assert_eq!(
            curl(&api, "PUT", "/p", None),
            r#"curl -s http://h:1/p -H "Authorization: Bearer $ADMIN_TOKEN" -X PUT"#
        );
    }
}
