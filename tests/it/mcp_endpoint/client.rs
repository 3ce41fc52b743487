//! A scripted MCP client, which can also break the rules.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::harness::{Answer, App, PATIENCE, answer};

pub const MODERN: &str = "2026-07-28";
pub const FIXTURE: &str = "/mcp/servers/fixture/mcp";

/// A client of one endpoint that acts for one user.
#[derive(Clone)]
pub struct McpClient {
    http: reqwest::Client,
    pub url: String,
    headers: Vec<(String, String)>,
}

impl McpClient {
    pub fn new(app: &App, path: &str) -> Self {
        Self::at(app, &app.url, path)
    }

    /// Returns a client of one of several facades.
    pub fn at(app: &App, facade: &str, path: &str) -> Self {
        Self {
            http: app.http.clone(),
            url: format!("{facade}{path}"),
            headers: vec![],
        }
    }

    /// Returns this client at another URL, with all of its headers.
    pub fn moved(&self, url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..self.clone()
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn user(self, user: &str) -> Self {
        self.with("mcp-api-user", user)
    }

    pub fn token(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    pub fn request(&self, method: reqwest::Method) -> RequestBuilder {
        let request = self.http.request(method, &self.url);
        self.headers.iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        })
    }

    /// Sends a body as it is.
    pub async fn post(&self, body: &str) -> Answer {
        let request = self
            .request(reqwest::Method::POST)
            .header("content-type", "application/json")
            .timeout(PATIENCE)
            .body(body.to_owned());
        answer(request).await
    }

    /// Returns a request of 2026-07-28 with its headers.
    pub fn modern_request(&self, method: &str, params: Value) -> RequestBuilder {
        let body = modern_body(7, method, params);
        let mut request = self
            .request(reqwest::Method::POST)
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", method);
        let params = &body["params"];
        if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
            request = request.header("mcp-name", name);
        }
        request.json(&body)
    }

    /// Sends a request of 2026-07-28.
    pub async fn modern(&self, method: &str, params: Value) -> Answer {
        answer(self.modern_request(method, params).timeout(PATIENCE)).await
    }

    /// Calls a tool whose name in the header differs from the name in the body.
    pub async fn call_with_name(&self, header: &str, params: Value) -> Answer {
        let body = modern_body(7, "tools/call", params);
        let request = self
            .request(reqwest::Method::POST)
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", "tools/call")
            .header("mcp-name", header);
        answer(request.json(&body).timeout(PATIENCE)).await
    }

    /// Calls a tool as a client of 2026-07-28, and returns the result.
    pub async fn call_modern(&self, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        result(self.modern("tools/call", params).await)
    }

    /// Begins a session, and returns a client that uses it.
    pub async fn initialize(&self, version: &str) -> (Self, Value) {
        let (begun, session) = self.begin(version, json!({})).await;
        (self.clone().with("mcp-session-id", &session), begun)
    }

    /// Begins a session of a client with capabilities. Returns the result and the session id.
    pub async fn begin(&self, version: &str, capabilities: Value) -> (Value, String) {
        let params = json!({
            "protocolVersion": version, "capabilities": capabilities,
            "clientInfo": { "name": "scripted", "version": "1" },
        });
        let begun = self.legacy("initialize", params).await;
        let session = begun.headers["mcp-session-id"]
            .to_str()
            .expect("ASCII")
            .to_owned();
        (result(begun), session)
    }

    /// Sends a request of a session.
    pub async fn legacy(&self, method: &str, params: Value) -> Answer {
        let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        self.post(&body.to_string()).await
    }

    /// Sends a notification of a session.
    pub async fn notify(&self, method: &str, params: Value) -> Answer {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        self.post(&body.to_string()).await
    }

    /// Calls a tool in a session, and returns the result.
    pub async fn call_legacy(&self, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        result(self.legacy("tools/call", params).await)
    }
}

/// Returns the body of a request of 2026-07-28.
pub fn modern_body(id: u64, method: &str, mut params: Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let given = params["_meta"].take();
    params["_meta"] = meta;
    if let Some(given) = given.as_object() {
        params["_meta"]
            .as_object_mut()
            .expect("an object")
            .extend(given.clone());
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// Returns the result of a response.
pub fn result(mut answer: Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let result = answer.body["result"].take();
    assert!(result.is_object(), "{}", answer.body);
    result
}

/// Returns the code of a JSON-RPC error.
pub fn error_code(answer: &Answer) -> i64 {
    answer.body["error"]["code"]
        .as_i64()
        .unwrap_or_else(|| panic!("no error: {}", answer.body))
}

/// Returns the text of a tool's result.
pub fn text_of(result: &Value) -> &str {
    result["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text: {result}"))
}

/// The messages of an event stream.
pub struct Messages {
    response: reqwest::Response,
    text: String,
}

impl Messages {
    /// Opens a stream. The answer must be a stream.
    pub async fn open(request: RequestBuilder) -> Self {
        let response = request
            .header("accept", "application/json, text/event-stream")
            .send()
            .await
            .expect("a response");
        let kind = response.headers()["content-type"].to_str().expect("ASCII");
        assert_eq!(
            (response.status().as_u16(), kind),
            (200, "text/event-stream")
        );
        Self {
            response,
            text: String::new(),
        }
    }

    /// Opens a stream, or takes the answer without a stream as its only message.
    pub async fn open_or_answer(request: RequestBuilder) -> Self {
        let request = request.header("accept", "application/json, text/event-stream");
        let mut response = request.send().await.expect("a response");
        let mut text = String::new();
        if response.headers()["content-type"] == "application/json" {
            while let Some(chunk) = response.chunk().await.expect("a chunk") {
                text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            }
            text = format!("data: {text}\n\n");
        }
        Self { response, text }
    }

    /// Returns the next message, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data: Vec<_> = event
                    .lines()
                    .filter_map(|line| line.strip_prefix("data: "))
                    .collect();
                let message = data.join("\n");
                self.text = rest.to_owned();
                if !message.is_empty() {
                    return Some(serde_json::from_str(&message).expect("JSON"));
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk());
            let chunk = chunk.await.expect("a chunk in time").ok().flatten()?;
            self.text
                .push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// Returns the next message with this method.
    pub async fn notification(&mut self, method: &str) -> Value {
        let message = self.next().await.expect("a message");
        assert_eq!(message["method"], method, "{message}");
        message
    }
}
