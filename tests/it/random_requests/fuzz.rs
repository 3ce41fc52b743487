//! Random requests for the operations of the OpenAPI document.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::planted::{SECRETS, World};
use super::random::Random;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
/// Headers that handlers or the middleware read.
const HEADERS: [&str; 13] = [
    "accept",
    "cookie",
    "host",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "mcp-api-user",
    "mcp-api-min-position",
    "origin",
    "prefer",
    "sec-fetch-site",
    "traceparent",
    "x-api-key",
];

/// An operation of the OpenAPI document.
pub struct Operation {
    method: Method,
    path: String,
    /// The names of the query parameters.
    query: Vec<String>,
    /// The fields of the body with their schemas.
    fields: Vec<(String, Value)>,
    is_form: bool,
    statuses: Vec<u16>,
}

/// Returns all operations.
pub fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(include_str!("../../../schemas/openapi.json"))
        .expect("the OpenAPI document");
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let parameters = operation["parameters"].as_array();
            let parameters = parameters.map_or(&[][..], Vec::as_slice).iter();
            let query = parameters
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().expect("a name").to_owned());
            let content = operation["requestBody"]["content"].as_object();
            let content = content.and_then(|content| content.iter().next());
            let statuses = operation["responses"].as_object().expect("responses");
            operations.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                query: query.collect(),
                fields: content
                    .map_or_else(Vec::new, |(_, body)| fields(&document, &body["schema"])),
                is_form: content.is_some_and(|(kind, _)| kind.contains("form")),
                statuses: statuses.keys().flat_map(|status| status.parse()).collect(),
            });
        }
    }
    operations
}

fn fields(document: &Value, schema: &Value) -> Vec<(String, Value)> {
    let reference = schema["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix('#'));
    let schema = reference.map_or(Some(schema), |path| document.pointer(path));
    let schema = schema.expect("a schema");
    let properties = schema["properties"].as_object();
    let properties = properties.into_iter().flatten();
    properties
        .map(|(name, schema)| (name.clone(), schema.clone()))
        .collect()
}

/// A request.
pub struct Fuzzed {
    method: Method,
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    path: String,
    statuses: Vec<u16>,
}

impl std::fmt::Debug for Fuzzed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        writeln!(formatter, "{} {}", self.method, cut(self.target.as_bytes()))?;
        for (name, value) in &self.headers {
            writeln!(formatter, "{name}: {}", cut(value.as_bytes()))?;
        }
        write!(formatter, "{}", cut(&self.body))
    }
}

impl Fuzzed {
    pub fn to_http(&self, address: &str) -> Request<Full<Bytes>> {
        let body = Full::from(self.body.clone());
        let request = Request::builder().method(&self.method);
        let mut request = request.uri(&self.target).body(body).expect("a request");
        request.headers_mut().extend(self.headers.iter().cloned());
        let host = HeaderValue::try_from(address).expect("a host");
        request.headers_mut().entry("host").or_insert(host);
        request
    }

    /// Returns whether the document names the status for this operation.
    pub fn documents(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    /// Returns whether the reply depends on an authorization server or a registry, which no request can reach here.
    pub fn reaches_other_programs(&self) -> bool {
        let path = self.path.as_str();
        path.ends_with("/oauth/start") || path.starts_with("/packages")
    }
}

/// Returns a random request.
pub fn request(random: &mut Random, world: &World, operations: &[Operation]) -> Fuzzed {
    let operation = &operations[random.below(operations.len())];
    let (token, is_admin) = token(random, world);
    let method = if random.is_once_in(12) {
        random.choose(&METHODS).parse().expect("a method")
    } else {
        operation.method.clone()
    };
    let target = target(random, world, operation, &method, is_admin);
    let mut headers = headers(random);
    if let Some(token) = token {
        headers.push((hyper::header::AUTHORIZATION, token));
    }
    let body = if operation.fields.is_empty() && !random.is_once_in(10) {
        Vec::new()
    } else {
        body(random, operation)
    };
    let kind = match (random.below(12), operation.is_form) {
        (0, _) => random.choose(&["text/plain", "application/jsonx", "", "\u{ff}"]),
        (_, true) => "application/x-www-form-urlencoded",
        (_, false) => "application/json",
    };
    if !body.is_empty() || random.is_once_in(2) {
        headers.push((hyper::header::CONTENT_TYPE, header(kind.as_bytes())));
    }
    Fuzzed {
        method,
        target,
        headers,
        body,
        path: operation.path.clone(),
        statuses: operation.statuses.clone(),
    }
}

fn header(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).expect("the bytes of a header")
}

/// Returns the value of `Authorization`, and whether it is the token of an administrator.
fn token(random: &mut Random, world: &World) -> (Option<HeaderValue>, bool) {
    let valid = |random: &mut Random| world.users[random.below(world.users.len())].clone();
    let admin = |random: &mut Random| world.admins[random.below(world.admins.len())].clone();
    let mut is_admin = false;
    let text = match random.below(24) {
        0..=9 => valid(random).into_bytes(),
        10..=12 => {
            is_admin = true;
            admin(random).into_bytes()
        }
        13 => world.ended[random.below(world.ended.len())]
            .clone()
            .into_bytes(),
        14 => {
            let mut token = valid(random).into_bytes();
            token.truncate(random.below(token.len()));
            token
        }
        15 | 16 => {
            let mut token = if random.is_once_in(2) {
                valid(random)
            } else {
                admin(random)
            }
            .into_bytes();
            let at = random.below(token.len());
            token[at] = if token[at] == b'x' { b'y' } else { b'x' };
            token
        }
        17 => {
            // A blank behind the token does not make it another one.
            is_admin = true;
            format!("{}{}", admin(random), random.choose(&["x", " ", "\t", ","])).into_bytes()
        }
        18 => format!("mcpu_{}", random.choose(&["", "_", "__", "zz_zz", "0_0"])).into_bytes(),
        19 | 20 => jwt(random).into_bytes(),
        21 => {
            let length = random.below(8000);
            random.header_bytes(length)
        }
        _ => return (None, false),
    };
    let scheme = match random.below(16) {
        0 => random.choose(&["Basic ", "bearer  ", "Bearer\t", "Bearer", "", "BEARER "]),
        _ => "Bearer ",
    };
    (Some(header(&[scheme.as_bytes(), &text].concat())), is_admin)
}

/// Returns a text in the form of a JWT. No issuer has signed it.
fn jwt(random: &mut Random) -> String {
    let header = random.choose(&[
        "eyJhbGciOiJub25lIn0",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ",
        "eyJ",
        "!",
    ]);
    let claims = random.choose(&["eyJzdWIiOiJhbmEifQ", "eyJpc3MiOiJodHRwczovL2gifQ", ""]);
    format!(
        "{header}.{claims}.{}",
        random.choose(&["", "AAAA", "====", "AAAA.AAAA"])
    )
}

/// Returns the path and the query.
fn target(
    random: &mut Random,
    world: &World,
    operation: &Operation,
    method: &Method,
    is_admin: bool,
) -> String {
    let mut target = String::new();
    for part in operation.path.split('/').skip(1) {
        target.push('/');
        if part.starts_with('{') {
            // An administrator could delete the server that other requests call.
            let is_kept = is_admin && method != Method::GET;
            target.push_str(&path_value(random, world, is_kept));
        } else {
            target.push_str(part);
        }
    }
    if random.is_once_in(40) {
        target.push_str(random.choose(&["/", "//", "/..", "/%2e%2e", "/%ff", "/%00", "/x", "%"]));
    }
    let mut separator = '?';
    for name in &operation.query {
        if random.is_once_in(2) {
            continue;
        }
        let value = query_value(random, world, name);
        let value = utf8_percent_encode(&value, NON_ALPHANUMERIC);
        target.push_str(&format!("{separator}{name}={value}"));
        separator = '&';
    }
    if random.is_once_in(40) {
        let more = random.choose(&[
            "a=b",
            "%ff=%ff",
            "&&&",
            "username=ana&username=ben",
            "=",
            "x=%",
        ]);
        target.push(separator);
        target.push_str(more);
    }
    target
}

fn path_value(random: &mut Random, world: &World, is_kept: bool) -> String {
    let value = match random.below(10) {
        0..=3 if !is_kept => random.choose(&["fixture", "remote"]).to_owned(),
        4 | 5 => world.ids[random.below(world.ids.len())].clone(),
        6 => random.text(),
        7 => "n".repeat(random.below(300)),
        8 => {
            return random
                .choose(&["%ff", "%00", "%2f", "%", "%zz", "."])
                .to_owned();
        }
        _ => random.choose(&["r0", "r1", "r2", "none"]).to_owned(),
    };
    utf8_percent_encode(&value, NON_ALPHANUMERIC).to_string()
}

fn query_value(random: &mut Random, world: &World, name: &str) -> String {
    let is_secret = ["code", "state", "link", "signature", "id", "iss"].contains(&name);
    match random.below(8) {
        0 if is_secret => random.choose(&SECRETS).to_owned(),
        // A long wait would only keep the connection.
        _ if name == "wait" => random
            .choose(&["1ms", "0s", "6m", "-1s", "x", ""])
            .to_owned(),
        1 => random
            .choose(&["0", "1", "7", "1000", "-1", "18446744073709551616", "1e9"])
            .to_owned(),
        2 => random
            .choose(&[
                "1.0",
                "12.0",
                "0.0",
                "99999.0",
                "2026-01-31T12:00:00Z",
                "1.x",
            ])
            .to_owned(),
        3 => random
            .choose(&["true", "false", "succeeded", "waiting,failed", "null"])
            .to_owned(),
        4 => random
            .choose(&[
                "ana",
                "ben",
                "mcp-api",
                "default",
                "fixture",
                "server/fixture",
            ])
            .to_owned(),
        5 => world.ids[random.below(world.ids.len())].clone(),
        6 => "q".repeat(random.below(4000)),
        _ => random.text(),
    }
}

fn headers(random: &mut Random) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    while random.is_once_in(3) {
        let name = HeaderName::from_static(random.choose(&HEADERS));
        let value = match random.below(6) {
            0 => header(
                random
                    .choose(&SECRETS)
                    .replace(['\n', '\t'], " ")
                    .as_bytes(),
            ),
            1 => {
                let length = random.below(40);
                header(&random.header_bytes(length))
            }
            2 => {
                let length = random.below(6000);
                header(&random.header_bytes(length))
            }
            3 => header(b"text/event-stream"),
            4 => header(
                random
                    .choose(&["respond-async", "cross-site", "same-origin", "*"])
                    .as_bytes(),
            ),
            _ => header(
                random
                    .choose(&["1.0", "12.0", "key-1", "key-2", "0", ""])
                    .as_bytes(),
            ),
        };
        headers.push((name, value));
    }
    headers
}

fn body(random: &mut Random, operation: &Operation) -> Vec<u8> {
    let mut fields = Map::new();
    for (name, schema) in &operation.fields {
        if random.below(5) > 1 {
            fields.insert(name.clone(), field(random, operation, name, schema));
        }
    }
    if random.is_once_in(12) {
        fields.insert(random.text(), json!(1));
    }
    let mut bytes = if operation.is_form {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in &fields {
            form.append_pair(name, value.as_str().unwrap_or("7"));
        }
        form.finish().into_bytes()
    } else {
        Value::from(fields).to_string().into_bytes()
    };
    match random.below(30) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 if !bytes.is_empty() => {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        2 => bytes = format!("[{}]", String::from_utf8_lossy(&bytes)).into_bytes(),
        3 => bytes = format!("{}1{}", "[".repeat(500), "]".repeat(500)).into_bytes(),
        _ => {}
    }
    bytes
}

/// Returns a value for a field. Only a field that takes a secret, or one that takes no text, gets a planted secret.
fn field(random: &mut Random, operation: &Operation, name: &str, schema: &Value) -> Value {
    let takes_secret = [
        "secretValue",
        "accessToken",
        "refreshToken",
        "clientSecret",
        "codeVerifier",
        "token",
        "form_token",
    ];
    if takes_secret.contains(&name) {
        return json!(random.choose(&SECRETS));
    }
    let kind = schema["type"].to_string();
    let takes_text = kind.contains("string") || !schema["type"].is_string();
    if !takes_text && random.is_once_in(12) {
        return json!(random.choose(&SECRETS));
    }
    if random.is_once_in(12) {
        let depth = random.below(3);
        return any_json(random, depth);
    }
    match name {
        "name" if operation.path == "/packages/install" => {
            json!(random.choose(&["", "-x", "../x", "UPPER", "a b", "@/x", "http://h/x"]))
        }
        "name" => json!(random.choose(&["r0", "r1", "r2", "fixture", "a b", ""])),
        "serverName" | "server" => {
            json!(random.choose(&["fixture", "fixture", "fixture", "remote", "none", "a/b"]))
        }
        "methodName" => json!(random.choose(&["echo", "pid", "none", ""])),
        "username" => json!(random.choose(&["ana", "ben", "carl", "mcp-api", "", "u\n"])),
        "secretName" => json!(random.choose(&["n1", "n2", "fixture.n3", "planted_9", "", "a\0"])),
        "timeoutMs" => json!(60_000),
        "command" => json!(random.choose(&["true", "/nonexistent", "", "${package}/x"])),
        "url" => json!(random.choose(&[
            "http://127.0.0.1:1/mcp",
            "x",
            "file:///etc",
            "http://u:p@127.0.0.1:1"
        ])),
        "redirectUri" => json!(random.choose(&["https://h.example/callback", "javascript:1", ""])),
        "before" => json!(random.choose(&["90d", "1s", "x", "-1d", "100000000y"])),
        "expiresIn" => json!(random.below(100_000)),
        _ => typed(random, &kind, schema),
    }
}

fn typed(random: &mut Random, kind: &str, schema: &Value) -> Value {
    if kind.contains("boolean") {
        json!(random.is_once_in(2))
    } else if kind.contains("integer") {
        json!(random.below(100_000))
    } else if kind.contains("array") {
        let length = random.below(4);
        let items = schema["items"].to_string();
        let words: &[&str] = if items.contains("string") {
            &["tools", "secrets", "fixture", "remote", "a", "-v"]
        } else {
            &["tools", "tokens", "admin", "metrics", "x"]
        };
        let item = |random: &mut Random| json!(random.choose(words));
        Value::from((0..length).map(|_| item(random)).collect::<Vec<_>>())
    } else if kind.contains("object") {
        let value = random.text();
        json!({ "message": random.text(), "A": value })
    } else {
        json!(random.text())
    }
}

fn any_json(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(random.is_once_in(2)),
        2 => json!(-(random.below(1000) as i64)),
        3 => json!(1e300),
        4 => json!(random.text()),
        5 => Value::from(vec![any_json(random, depth - 1); 3]),
        _ => json!({ (random.text()): any_json(random, depth - 1) }),
    }
}
