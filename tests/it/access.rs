//! Who may come in, what may be sent, and how the program refuses to start.

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, App, answer, refused};

const TOKEN: &str = "a-token-of-many-characters";

async fn with(app: &App, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = app.http.request(method, format!("{}{path}", app.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await
}

#[tokio::test]
async fn with_a_token_every_request_needs_the_token() {
    let app = App::start_with(&[
        ("ADMIN_TOKEN", TOKEN),
        ("HOST", "0.0.0.0"),
        ("ALLOWED_HOSTS", "unused"),
    ]);
    let get = async |path: &str, given: &str| {
        with(&app, Method::GET, path, &[("authorization", given)]).await
    };
    for path in [
        "/mcp/servers",
        "/mcp/tools",
        "/events",
        "/metrics",
        "/nowhere",
        "/openapi.jsonx",
        "/docsx",
    ] {
        for given in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Basic a-token-of-many-characters",
            &TOKEN[..20],
            TOKEN,
        ] {
            let refusal = get(path, given).await;
            assert_eq!(refusal.headers["www-authenticate"], "Bearer");
            let error = refusal.fails(401, "unauthenticated");
            assert!(
                error.contains("ADMIN_TOKEN") && !error.contains(TOKEN),
                "{error}"
            );
        }
    }
    for given in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}")] {
        get("/mcp/servers", &given).await.ok();
    }
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs", "/docs/"] {
        assert_eq!(app.get(path).await.status, 200, "{path}");
    }
    app.post("/mcp/servers", json!({ "name": "a", "command": "true" }))
        .await
        .fails(401, "unauthenticated");
    app.post("/secrets/set", json!({}))
        .await
        .fails(401, "unauthenticated");
    // Whoever has the token may use any name for this API.
    let named = [
        ("authorization", "Bearer a-token-of-many-characters"),
        ("host", "elsewhere.example"),
    ];
    with(&app, Method::GET, "/mcp/servers", &named).await.ok();
}

#[tokio::test]
async fn without_a_token_a_foreign_page_is_refused() {
    let app = App::start_with(&[
        ("ALLOWED_HOSTS", "mcp.test, Other.Test"),
        ("PUBLIC_URL", "https://public.test/api"),
    ]);
    let port = app.url.rsplit_once(':').expect("a port").1.to_owned();
    let get = async |name: &str, value: &str| {
        with(&app, Method::GET, "/mcp/servers", &[(name, value)]).await
    };
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "mcp.test",
        "other.test",
        "public.test",
    ] {
        get("host", host).await.ok();
        get("host", &format!("{host}:{port}")).await.ok();
        get("origin", &format!("http://{host}:1234")).await.ok();
    }
    for host in [
        "evil.test",
        "mcp.test.evil.test",
        "127.0.0.1.evil.test",
        "169.254.169.254",
    ] {
        let error = get("host", host).await.fails(403, "forbidden");
        assert!(
            error.contains("ALLOWED_HOSTS") && error.contains(host),
            "{error}"
        );
        let error = get("origin", &format!("https://{host}"))
            .await
            .fails(403, "forbidden");
        assert!(error.contains("ALLOWED_HOSTS"), "{error}");
    }
    for origin in [
        "null",
        "file://",
        "http://",
        "chrome-extension://abc",
        "http://evil.test@localhost.evil.test",
    ] {
        get("origin", origin).await.fails(403, "forbidden");
    }
    // Probes come under whatever name the host has.
    for path in ["/healthz", "/readyz"] {
        with(&app, Method::GET, path, &[("host", "10.0.0.7")])
            .await
            .ok();
    }
    let (status, _, body) = app.raw("GET /mcp/servers HTTP/1.0\r\n\r\n").await;
    assert_eq!(
        (status, &body["code"]),
        (403, &json!("forbidden")),
        "no name at all: {body}"
    );
}

#[tokio::test]
async fn every_failure_has_the_envelope() {
    let app = App::start_with(&[("PAYLOAD_LIMIT", "10kb")]);
    let post = |kind: &'static str, body: &'static str| {
        answer(
            app.http
                .post(format!("{}/mcp/servers", app.url))
                .header("content-type", kind)
                .body(body),
        )
    };
    post("text/plain", "{}")
        .await
        .fails(415, "unsupported_media_type");
    post("", "{}").await.fails(415, "unsupported_media_type");
    post("application/jsonx", "{}")
        .await
        .fails(415, "unsupported_media_type");
    for bad in [
        "",
        "{",
        "{\"name\":}",
        "{} {}",
        "nul",
        "{\"name\":\"a\",\"name\":\"b\",\"command\":\"c\"}",
        "[]",
        "7",
    ] {
        post("application/json; charset=utf-8", bad)
            .await
            .fails(400, "invalid_request");
    }
    for path in [
        "/",
        "/nowhere",
        "/mcp",
        "/mcp/servers/",
        "/mcp/servers/a/b",
        "/docs/nowhere",
    ] {
        app.get(path).await.fails(404, "route_not_found");
    }
    for (method, path) in [
        (Method::PATCH, "/mcp/servers"),
        (Method::GET, "/mcp/tool/call"),
        (Method::POST, "/healthz"),
        (Method::DELETE, "/events"),
    ] {
        app.send(method, path, None)
            .await
            .fails(405, "method_not_allowed");
    }
    for query in [
        "?limit=x",
        "?limit=0",
        "?limit=1001",
        "?after=x",
        "?other=1",
        "?limit=1&limit=2",
        "?after=%ff",
    ] {
        app.get(&format!("/events{query}"))
            .await
            .fails(400, "invalid_request");
    }
    app.get("/mcp/servers/%ff%fe")
        .await
        .fails(404, "server_not_found");
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_however_it_comes() {
    let app = App::start_with(&[("PAYLOAD_LIMIT", "10kb")]);
    let head = "POST /mcp/tool/call HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    // Announced: refused before a byte of it has come.
    let (status, _, body) = app
        .raw(&format!("{head}Content-Length: 10241\r\n\r\n"))
        .await;
    assert_eq!(
        (status, &body["code"], &body["success"]),
        (413, &json!("payload_too_large"), &json!(false))
    );
    assert!(
        body["error"]
            .as_str()
            .expect("a sentence")
            .contains("PAYLOAD_LIMIT")
    );
    // In chunks, of which nobody knows how many there will be.
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
    let (status, _, body) = app
        .raw(&format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{}",
            chunk.repeat(11)
        ))
        .await;
    assert_eq!((status, &body["code"]), (413, &json!("payload_too_large")));
    // At the limit it passes.
    let fits = format!("{{}}{}", " ".repeat(10238));
    let (status, _, body) = app
        .raw(&format!("{head}Content-Length: 10240\r\n\r\n{fits}"))
        .await;
    assert_eq!(
        (status, &body["code"]),
        (400, &json!("invalid_request")),
        "{body}"
    );
}

#[tokio::test]
async fn answers_tell_a_position_that_may_be_asked_for() {
    let app = App::start();
    let position = |headers: &HeaderMap| {
        headers["log-position"]
            .to_str()
            .expect("text")
            .parse::<u64>()
            .expect("a number")
    };
    assert_eq!(position(&app.get("/mcp/servers").await.headers), 0);
    let registered = app.register("fixture", json!({ "enabled": false })).await;
    let at = position(&registered.headers);
    assert!(at >= 1);
    assert_eq!(app.get("/readyz").await.ok()["position"], at);
    let ask = async |value: &str| {
        with(
            &app,
            Method::GET,
            "/mcp/servers/fixture",
            &[("log-position", value)],
        )
        .await
    };
    ask(&at.to_string()).await.ok();
    ask("0").await.ok();
    assert!(
        ask(&(at + 1).to_string())
            .await
            .fails(400, "invalid_request")
            .contains(&at.to_string())
    );
    for wrong in ["x", "-1", "1.0", ""] {
        ask(wrong).await.fails(400, "invalid_request");
    }
}

#[test]
fn an_open_port_needs_a_token() {
    let dir = TempDir::new().expect("a folder");
    for host in ["0.0.0.0", "::"] {
        let said = refused(dir.path(), &[("HOST", host)]);
        assert!(
            ["HOST", "ADMIN_TOKEN", "ALLOW_UNAUTHENTICATED"]
                .iter()
                .all(|name| said.contains(name)),
            "{said}"
        );
    }
}

#[tokio::test]
async fn an_open_port_may_be_wanted() {
    let app = App::start_with(&[("HOST", "0.0.0.0"), ("ALLOW_UNAUTHENTICATED", "true")]);
    app.get("/mcp/servers").await.ok();
}

#[test]
fn an_unusable_value_is_refused_by_name_and_not_repeated() {
    let dir = TempDir::new().expect("a folder");
    for (name, value) in [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("HOST", "no such host!"),
        ("PUBLIC_URL", "ftp://files.test"),
        ("PUBLIC_URL", "https://mcp.test/?page=1"),
        ("ADMIN_TOKEN", "s3cret"),
        ("ADMIN_TOKEN", "s3cret with blanks and more"),
        ("ALLOW_UNAUTHENTICATED", "perhaps"),
        ("PAYLOAD_LIMIT", "sixmb"),
        ("RESULT_LIMIT", "17"),
        ("MAX_CALLS", "-9"),
        ("MAX_CALLS_PER_SERVER", "zero"),
        ("MAX_CALLS_PER_USER", "9x9"),
        ("LEASE_TTL", "soon"),
        ("DRAIN_TIMEOUT", "77 moons"),
        ("LOG_FORMAT", "yaml"),
        ("RUST_LOG", "=no=filter="),
        ("NATS_URL", "nats://user:s3cret@somewhere"),
        ("MONGO_PASS", "s3cret"),
    ] {
        let said = refused(dir.path(), &[(name, value)]);
        assert!(said.contains(name), "{name}: {said}");
        assert!(
            !said.contains(value) && !said.contains("s3cret"),
            "{name}: {said}"
        );
    }
    std::fs::write(dir.path().join(".env"), "PORT=0\nthis is s3cret\n").expect("written");
    let said = refused(dir.path(), &[]);
    assert!(said.contains(".env") && !said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn a_second_program_on_the_same_folder_refuses() {
    let mut app = App::embedded();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    let said = refused(app.dir.path(), &[]);
    assert!(
        said.contains("DATA_DIR") && said.contains("in use"),
        "{said}"
    );
    let port = app.url.rsplit_once(':').expect("a port").1.to_owned();
    let other = TempDir::new().expect("a folder");
    let said = refused(other.path(), &[("PORT", &port)]);
    assert!(said.contains("PORT") && said.contains(&port), "{said}");
    assert_eq!(
        app.server("fixture").await["name"],
        "fixture",
        "the first goes on"
    );
    app.kill_and_restart();
    assert_eq!(app.server("fixture").await["name"], "fixture");
}

#[tokio::test]
async fn a_file_beside_the_program_is_its_environment_too() {
    let mut app = App::start();
    app.terminate();
    std::fs::write(
        app.dir.path().join(".env"),
        format!("ADMIN_TOKEN='{TOKEN}'\nPORT=1\n"),
    )
    .expect("written");
    // PORT stands in the environment too, and that wins.
    app.restart();
    app.get("/mcp/servers").await.fails(401, "unauthenticated");
    let given: Value = with(
        &app,
        Method::GET,
        "/mcp/servers",
        &[("authorization", &format!("Bearer {TOKEN}"))],
    )
    .await
    .ok();
    assert_eq!(given["servers"], json!([]));
}
