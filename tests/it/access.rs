//! Authentication, the Host check, invalid requests, and refused starts.

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
async fn a_deployment_with_a_token_refuses_every_request_without_it() {
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
    // A request with the token can use any name for this API.
    let named = [
        ("authorization", "Bearer a-token-of-many-characters"),
        ("host", "elsewhere.example"),
    ];
    with(&app, Method::GET, "/mcp/servers", &named).await.ok();
}

#[tokio::test]
async fn a_deployment_without_a_token_refuses_foreign_hosts_and_origins() {
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
    // Probes can use any name, because an orchestrator uses the address of the host.
    for path in ["/healthz", "/readyz"] {
        with(&app, Method::GET, path, &[("host", "10.0.0.7")])
            .await
            .ok();
    }
    let (status, _, body) = app.raw("GET /mcp/servers HTTP/1.0\r\n\r\n").await;
    assert_eq!(
        (status, &body["code"]),
        (403, &json!("forbidden")),
        "without a Host header: {body}"
    );
}

#[tokio::test]
async fn every_failure_has_the_json_envelope() {
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
async fn a_body_above_the_limit_is_refused_with_and_without_a_length() {
    let app = App::start_with(&[("PAYLOAD_LIMIT", "10kb")]);
    let head = "POST /mcp/tool/call HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    // The program refuses an announced length before it reads a byte of the body.
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
    // A chunked body has no announced length.
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
    let (status, _, body) = app
        .raw(&format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{}",
            chunk.repeat(11)
        ))
        .await;
    assert_eq!((status, &body["code"]), (413, &json!("payload_too_large")));
    // A body at the limit passes the limit; its content is invalid.
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
async fn a_request_can_name_the_log_position_of_an_earlier_answer() {
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
fn a_public_port_needs_a_token() {
    let dir = TempDir::new().expect("a folder");
    for host in ["0.0.0.0", "::"] {
        let output = refused(dir.path(), &[("HOST", host)]);
        assert!(
            ["HOST", "ADMIN_TOKEN", "ALLOW_UNAUTHENTICATED"]
                .iter()
                .all(|name| output.contains(name)),
            "{output}"
        );
    }
}

#[tokio::test]
async fn a_public_port_without_a_token_needs_allow_unauthenticated() {
    let app = App::start_with(&[("HOST", "0.0.0.0"), ("ALLOW_UNAUTHENTICATED", "true")]);
    app.get("/mcp/servers").await.ok();
}

#[test]
fn an_invalid_variable_is_named_and_its_value_is_not_shown() {
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
        let output = refused(dir.path(), &[(name, value)]);
        assert!(output.contains(name), "{name}: {output}");
        assert!(
            !output.contains(value) && !output.contains("s3cret"),
            "{name}: {output}"
        );
    }
    std::fs::write(dir.path().join(".env"), "PORT=0\nthis is s3cret\n").expect("written");
    let output = refused(dir.path(), &[]);
    assert!(
        output.contains(".env") && !output.contains("s3cret"),
        "{output}"
    );
}

#[tokio::test]
async fn a_second_program_on_the_same_folder_refuses_to_start() {
    let mut app = App::embedded();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    let output = refused(app.dir.path(), &[]);
    assert!(
        output.contains("DATA_DIR") && output.contains("another mcp-api uses"),
        "{output}"
    );
    let port = app.url.rsplit_once(':').expect("a port").1.to_owned();
    let other = TempDir::new().expect("a folder");
    let output = refused(other.path(), &[("PORT", &port)]);
    assert!(
        output.contains("PORT") && output.contains(&port),
        "{output}"
    );
    assert_eq!(
        app.server("fixture").await["name"],
        "fixture",
        "the first program runs on"
    );
    app.kill_and_restart();
    assert_eq!(app.server("fixture").await["name"], "fixture");
}

#[tokio::test]
async fn an_env_file_in_the_current_folder_is_read() {
    let mut app = App::start();
    app.terminate();
    std::fs::write(
        app.dir.path().join(".env"),
        format!("ADMIN_TOKEN='{TOKEN}'\nPORT=1\n"),
    )
    .expect("written");
    // The environment has PORT too, and the environment wins.
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

#[tokio::test]
async fn a_request_from_another_site_is_refused_except_on_browser_pages() {
    let app = App::start();
    let get = async |path: &str, site: &str| {
        with(&app, Method::GET, path, &[("sec-fetch-site", site)]).await
    };
    for path in [
        "/mcp/servers",
        "/mcp/tools",
        "/packages?checkUpdates=true",
        "/events",
        "/metrics",
    ] {
        let error = get(path, "cross-site").await.fails(403, "forbidden");
        assert!(error.contains("Sec-Fetch-Site"), "{error}");
        for site in ["same-origin", "same-site", "none"] {
            assert_eq!(get(path, site).await.status, 200, "{path} from {site}");
        }
    }
    // These pages are the target of links on other sites.
    for (path, status) in [
        ("/auth/google/login?user_id=ana", 404),
        ("/auth/google/callback?code=x&state=y", 403),
        ("/oauth/authorize?link=x", 403),
        ("/oauth/callback?code=x&state=y", 403),
    ] {
        let page = get(path, "cross-site").await;
        assert_eq!(page.status, status, "{path}");
        let is_page = page.headers["content-type"] == "text/html; charset=utf-8";
        assert!(is_page, "{path} is a page: {:?}", page.headers);
    }
    assert_eq!(get("/docs/", "cross-site").await.status, 200);
    get("/healthz", "cross-site").await.ok();
}

#[tokio::test]
async fn a_token_allows_requests_from_another_site() {
    let app = App::start_with(&[("ADMIN_TOKEN", TOKEN)]);
    let headers = [
        ("authorization", &*format!("Bearer {TOKEN}")),
        ("sec-fetch-site", "cross-site"),
    ];
    with(&app, Method::GET, "/mcp/servers", &headers).await.ok();
}

#[tokio::test]
async fn every_answer_forbids_content_sniffing_and_docs_forbid_frames() {
    let app = App::start();
    for path in [
        "/mcp/servers",
        "/nowhere",
        "/mcp/tool/call",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs/",
        "/oauth/callback",
    ] {
        let answer = app.get(path).await;
        assert_eq!(
            answer.headers["x-content-type-options"], "nosniff",
            "{path}"
        );
    }
    let refused = with(&app, Method::GET, "/mcp/servers", &[("host", "evil.test")]).await;
    assert_eq!(refused.headers["x-content-type-options"], "nosniff");
    refused.fails(403, "forbidden");
    for path in ["/docs/", "/docs/swagger-ui.css", "/openapi.json"] {
        let page = app.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(
            page.headers["content-security-policy"], "frame-ancestors 'none'",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_path_to_an_unknown_server_is_not_found_before_its_body_is_read() {
    let app = App::start();
    for body in [json!({}), json!({ "unknown": 1 })] {
        for (method, path) in [
            (Method::POST, "/mcp/servers/nobody/oauth"),
            (Method::POST, "/mcp/servers/nobody/oauth/start"),
            (Method::PUT, "/mcp/servers/nobody"),
        ] {
            app.send(method, path, Some(body.clone()))
                .await
                .fails(404, "server_not_found");
        }
    }
}

#[tokio::test]
async fn events_after_zero_begin_at_the_first_event() {
    let app = App::start();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    let all = app.get("/events").await.ok();
    let after_zero = app.get("/events?after=0").await.ok();
    assert_eq!(after_zero, all);
    assert_eq!(all["events"][0]["type"], "server.registered");
}
