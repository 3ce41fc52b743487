//! Prints numbered steps, each with its command and its result.

use std::cell::Cell;
use std::io;
use std::io::IsTerminal;

use hyper::Method;
use serde_json::Value;

use crate::cli::client::{ApiClient, ApiResponse, send};
use crate::cli::output::print_line;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Standard output, with styles if it is a terminal.
pub(super) struct Show {
    styled: bool,
    steps: Cell<usize>,
}

impl Show {
    pub(super) fn new() -> Self {
        Self {
            styled: io::stdout().is_terminal(),
            steps: Cell::new(0),
        }
    }

    pub(super) fn title(&self, text: &str) {
        self.line(BOLD, text);
    }

    /// Prints the title of the next step.
    pub(super) fn step(&self, title: &str) {
        self.steps.set(self.steps.get() + 1);
        self.line("", "");
        self.line(BOLD, &format!("{}. {title}", self.steps.get()));
    }

    pub(super) fn command(&self, line: &str) {
        self.line(DIM, &format!("   $ {line}"));
    }

    pub(super) fn result(&self, text: &str) {
        self.line("", &format!("   {text}"));
    }

    pub(super) fn line(&self, style: &str, text: &str) {
        let (on, off) = if self.styled && !style.is_empty() {
            (style, PLAIN)
        } else {
            ("", "")
        };
        print_line(format_args!("{on}{text}{off}"));
    }

    /// Prints the curl command of a request, and sends the request.
    pub(super) async fn request(
        &self,
        api: &ApiClient,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> ApiResponse {
        self.command(&curl(api, &method, path, body.as_ref()));
        send(api, method, path, body.as_ref()).await
    }
}

/// Returns the path of this program as the user called it.
pub(super) fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "mcp-api".into())
}

/// Returns the curl command of a request.
pub(super) fn curl(api: &ApiClient, method: &Method, path: &str, body: Option<&Value>) -> String {
    let url = format!("{}{path}", api.url);
    let mut line = format!(
        "curl -s {}",
        if url.contains('?') { quoted(&url) } else { url }
    );
    if api.token.is_some() {
        line += r#" -H "Authorization: Bearer $ADMIN_TOKEN""#;
    }
    if !matches!((method.as_str(), body), ("GET", None) | ("POST", Some(_))) {
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
    fn a_curl_command_can_be_copied() {
        let mut api = ApiClient::new("http://h:1".into(), None);
        assert_eq!(
            curl(&api, &Method::GET, "/events?limit=9", None),
            "curl -s 'http://h:1/events?limit=9'"
        );
        assert_eq!(
            curl(&api, &Method::POST, "/p", Some(&json!({ "a": "it's" }))),
            r#"curl -s http://h:1/p -H 'Content-Type: application/json' -d '{"a":"it'\''s"}'"#
        );
        api.token = Some("not shown".into());
        assert_eq!(
            curl(&api, &Method::PUT, "/p", None),
            r#"curl -s http://h:1/p -H "Authorization: Bearer $ADMIN_TOKEN" -X PUT"#
        );
    }
}
