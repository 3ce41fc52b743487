//! The table of all routes: a request to each, and the answer that a caller with its scope gets.

use reqwest::Method;
use serde_json::{Value, json};

/// The place at which a request names its user.
#[derive(Clone, Copy, PartialEq)]
pub enum UserField {
    Body,
    Query,
    /// The request acts for no user.
    Absent,
}

/// A route, a request to it, and the answer that a caller with the scope gets.
pub struct Route {
    pub method: Method,
    pub template: &'static str,
    pub path: &'static str,
    body: Option<Value>,
    pub user: UserField,
    /// The scope that the route needs. An empty text means any caller.
    pub scope: &'static str,
    pub status: u16,
    pub code: &'static str,
}

fn route(method: Method, path: &'static str, scope: &'static str, status: u16) -> Route {
    Route {
        method,
        template: path,
        path,
        body: None,
        user: UserField::Absent,
        scope,
        status,
        code: "",
    }
}

impl Route {
    fn at(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    fn with(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    fn with_user(self, user: UserField) -> Self {
        Self { user, ..self }
    }

    fn code(self, code: &'static str) -> Self {
        Self { code, ..self }
    }

    /// Returns the path and the body of the request for a user.
    pub fn request(&self, user: Option<&str>) -> (String, Option<Value>) {
        let mut path = self.path.to_owned();
        let mut body = self.body.clone();
        match (self.user, user) {
            (UserField::Body, Some(user)) => {
                let body = body.get_or_insert_with(|| json!({}));
                body["username"] = json!(user);
            }
            (UserField::Query, Some(user)) => {
                let separator = if path.contains('?') { '&' } else { '?' };
                path = format!("{path}{separator}username={user}");
            }
            _ => {}
        }
        (path, body)
    }
}

/// All routes that need a caller. The requests change nothing that another request needs.
pub fn routes() -> Vec<Route> {
    use UserField::{Body, Query};
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let secret = json!({ "serverName": "fixture", "secretName": "message" });
    let set = json!({ "serverName": "fixture", "secretName": "message", "secretValue": "v" });
    let call = json!({ "serverName": "fixture", "methodName": "echo", "args": { "message": "x" } });
    let tokens = json!({
        "accessToken": "t", "clientId": "c", "redirectUri": "https://h.example/callback",
    });
    let package =
        |method: &Method, path| route(method.clone(), path, "admin", 404).code("package_not_found");
    vec![
        route(get.clone(), "/whoami", "", 200),
        route(get.clone(), "/mcp/tools", "tools", 200),
        // Without a message or a session, the MCP endpoints answer these statuses.
        route(post.clone(), "/mcp", "tools", 415),
        route(get.clone(), "/mcp", "tools", 405),
        route(delete.clone(), "/mcp", "tools", 405),
        route(post.clone(), "/mcp/servers/{name}/mcp", "tools", 415).at("/mcp/servers/fixture/mcp"),
        route(get.clone(), "/mcp/servers/{name}/mcp", "tools", 405).at("/mcp/servers/fixture/mcp"),
        route(delete.clone(), "/mcp/servers/{name}/mcp", "tools", 405)
            .at("/mcp/servers/fixture/mcp"),
        route(get.clone(), "/mcp/servers", "tools", 200),
        route(get.clone(), "/mcp/servers/{name}", "tools", 200).at("/mcp/servers/fixture"),
        route(post.clone(), "/mcp/tool/call", "tools", 200)
            .with(call)
            .with_user(Body),
        route(get.clone(), "/jobs", "tools", 200).with_user(Query),
        route(get.clone(), "/jobs/{id}", "tools", 404)
            .at("/jobs/018f3a2b-4c5d-7000-8000-000000000000")
            .with_user(Query)
            .code("job_not_found"),
        route(delete.clone(), "/jobs/{id}", "tools", 404)
            .at("/jobs/018f3a2b-4c5d-7000-8000-000000000000")
            .with_user(Query)
            .code("job_not_found"),
        route(post.clone(), "/secrets/set", "secrets", 200)
            .with(set)
            .with_user(Body),
        route(post.clone(), "/secrets/delete", "secrets", 200)
            .with(secret)
            .with_user(Body),
        route(get.clone(), "/connections", "secrets", 200).with_user(Query),
        route(delete.clone(), "/connections/{name}", "secrets", 200)
            .at("/connections/fixture")
            .with_user(Query),
        route(post.clone(), "/mcp/servers/{name}/oauth", "secrets", 400)
            .at("/mcp/servers/fixture/oauth")
            .with(tokens)
            .with_user(Body)
            .code("invalid_request"),
        route(
            post.clone(),
            "/mcp/servers/{name}/oauth/start",
            "secrets",
            400,
        )
        .at("/mcp/servers/fixture/oauth/start")
        .with(json!({}))
        .with_user(Body)
        .code("invalid_request"),
        route(post.clone(), "/auth/google/link", "secrets", 400)
            .with(json!({ "serverName": "fixture" }))
            .with_user(Body)
            .code("invalid_request"),
        route(get.clone(), "/tokens", "tokens", 200).with_user(Query),
        route(post.clone(), "/tokens", "tokens", 400)
            .with(json!({ "scopes": [] }))
            .with_user(Body)
            .code("invalid_request"),
        route(delete.clone(), "/tokens/{id}", "tokens", 404)
            .at("/tokens/018f3a2b-4c5d-7000-8000-000000000000")
            .code("token_not_found"),
        route(get.clone(), "/events", "audit", 200),
        route(get.clone(), "/metrics", "metrics", 200),
        route(get.clone(), "/keys", "admin", 200),
        route(post.clone(), "/keys/rotate", "admin", 200),
        route(post.clone(), "/log/compact", "admin", 400)
            .with(json!({ "before": "1s" }))
            .code("invalid_request"),
        route(get.clone(), "/dead", "admin", 200),
        route(post.clone(), "/dead/{letter}/retry", "admin", 404).at("/dead/x/retry"),
        route(delete.clone(), "/dead/{letter}", "admin", 404).at("/dead/x"),
        route(post.clone(), "/mcp/servers", "admin", 400)
            .with(json!({ "name": "a" }))
            .code("invalid_request"),
        route(put.clone(), "/mcp/servers/{name}", "admin", 404)
            .at("/mcp/servers/none")
            .with(json!({})),
        route(delete.clone(), "/mcp/servers/{name}", "admin", 404).at("/mcp/servers/none"),
        route(put.clone(), "/mcp/servers/{name}/enable", "admin", 404)
            .at("/mcp/servers/none/enable"),
        route(put.clone(), "/mcp/servers/{name}/disable", "admin", 404)
            .at("/mcp/servers/none/disable"),
        route(get.clone(), "/packages", "admin", 200),
        route(get.clone(), "/packages/updates", "admin", 200),
        route(get.clone(), "/packages/by-name/{name}", "admin", 404)
            .at("/packages/by-name/none")
            .code("package_not_found"),
        package(&get, "/packages/by-id/{name}").at("/packages/by-id/none"),
        route(post.clone(), "/packages/install", "admin", 400)
            .with(json!({ "serverName": "a" }))
            .code("invalid_request"),
        route(put.clone(), "/packages/upgrade-all", "admin", 200).with_user(Body),
        package(&put, "/packages/{name}/upgrade").at("/packages/none/upgrade"),
        package(&put, "/packages/{name}/enable").at("/packages/none/enable"),
        package(&put, "/packages/{name}/disable").at("/packages/none/disable"),
        package(&delete, "/packages/{name}").at("/packages/none"),
    ]
}

/// Routes without a caller: probes, the documentation, and pages for browsers.
pub const PUBLIC: &[&str] = &[
    "GET /healthz",
    "GET /readyz",
    "GET /auth/google/login",
    "GET /auth/google/callback",
    "GET /oauth/authorize",
    "GET /oauth/callback",
    "GET /oauth/client.json",
    "POST /auth/google/login",
    "POST /oauth/authorize",
    "GET /signin",
    "POST /signin",
    "POST /signin/start",
    "GET /signin/callback",
    "POST /signout",
    "GET /connect",
    "GET /connect/{name}",
    "POST /connect/{name}/secrets",
    "POST /connect/{name}/secrets/delete",
    "POST /connect/{name}/oauth",
    "POST /connect/{name}/google",
    "POST /connect/{name}/disconnect",
    "GET /.well-known/oauth-protected-resource",
    "GET /.well-known/oauth-protected-resource/mcp",
    "GET /.well-known/oauth-protected-resource/mcp/servers/{name}/mcp",
];
