//! Forged links and cookies, failing servers, and leaks of tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::page::Google;
use super::{
    Begun, CLIENT_SECRET, CREDENTIALS, callback, connect, link, open, register, shown, with_token,
};
use crate::harness::{App, refused};
use crate::leaks::{clean, clean_everywhere};
use mcp_api::adapters::store_sqlite::SqliteStore;
use mcp_api::crypto::keyring::{SecretsKey, open_keyring};
use mcp_api::crypto::seal::Sealer;
use mcp_api::ports::vault::Vault;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time")
        .as_secs()
}

/// Returns the sealer of the program, because a test cannot wait for ten minutes.
async fn sealer(app: &App) -> Sealer {
    let store = SqliteStore::open(&app.data().join("mcp-api.sqlite")).expect("the store");
    let record = store
        .key_record(None)
        .await
        .expect("read")
        .expect("a record");
    open_keyring(&record, &SecretsKey::new(KEY.into()), &[])
        .expect("the ring")
        .0
}

fn signed_link(
    app: &App,
    sealer: &Sealer,
    user: &str,
    server: Option<&str>,
    expires: u64,
) -> String {
    let id = uuid::Uuid::new_v4();
    let signature = sealer
        .sign(
            "google link",
            &json!([user, server, expires, id]).to_string(),
        )
        .expect("signed");
    let server = server.map_or(String::new(), |server| format!("&server={server}"));
    let signature = URL_SAFE.encode(signature);
    format!(
        "{}/auth/google/login?user_id={user}{server}&expires={expires}&id={id}&signature={signature}",
        app.url
    )
}

#[tokio::test]
async fn only_a_valid_signed_link_begins_a_sign_in() {
    let google = Google::start().await;
    let app = with_token(App::embedded_with(&[
        ("ADMIN_TOKEN", super::TOKEN),
        ("SECRETS_KEY", KEY),
    ]));
    register(&app, &google, "workspace", &[]).await.ok();
    let sealer = sealer(&app).await;
    assert_eq!(
        open(&signed_link(&app, &sealer, "ana", None, now() + 60), None)
            .await
            .status,
        200,
        "a link that the test signs is valid"
    );
    let good = link(&app, "ana", None).await;
    assert_eq!(open(&good, None).await.status, 200);
    let (head, signature) = good.split_once("signature=").expect("a signature");
    for (bad, why) in [
        (
            signed_link(&app, &sealer, "ana", None, now() - 1),
            "more than ten minutes old",
        ),
        (
            signed_link(&app, &sealer, "ana", Some("workspace"), now() + 60).replace("ana", "ben"),
            "was changed",
        ),
        (good.replace("&server=workspace", ""), "was changed"),
        (good.replace("expires=1", "expires=2"), "was changed"),
        (
            good.replace("&id=", &format!("&id={}&x=", uuid::Uuid::new_v4()))
                .split("&x=")
                .next()
                .map(|head| format!("{head}&signature={signature}"))
                .expect("a link"),
            "was changed",
        ),
        (format!("{head}signature="), "was changed"),
        (
            format!("{head}signature=AAAA{}", &signature[4..]),
            "was changed",
        ),
        (
            format!("{}/auth/google/login?user_id=ana", app.url),
            "is not signed",
        ),
        (
            format!(
                "{}/auth/google/login?user_id=ana&signature={signature}",
                app.url
            ),
            "is not signed",
        ),
    ] {
        let page = open(&bad, None).await;
        assert!(
            page.status == 403 && page.text.contains(why),
            "{bad}: {} {}",
            page.status,
            page.text
        );
        assert!(page.headers.get("set-cookie").is_none(), "{bad}");
    }
    // The signature of a cookie is not valid for a link.
    let text = json!(["ana", "workspace", now() + 60, null]).to_string();
    let signature = URL_SAFE.encode(sealer.sign("google cookie", &text).expect("signed"));
    let mixed = format!(
        "{}/auth/google/login?user_id=ana&server=workspace&expires={}&signature={signature}",
        app.url,
        now() + 60
    );
    assert_eq!(open(&mixed, None).await.status, 403);
    // A request without the token gets no link.
    let asked = super::client()
        .build()
        .expect("a client")
        .post(format!("{}/auth/google/link", app.url));
    crate::harness::answer(asked.json(&json!({})))
        .await
        .fails(401, "unauthenticated");
}

#[tokio::test]
async fn a_code_is_accepted_only_from_the_browser_that_began() {
    let google = Google::start().await;
    let app = with_token(App::embedded_with(&[
        ("ADMIN_TOKEN", super::TOKEN),
        ("SECRETS_KEY", KEY),
    ]));
    register(&app, &google, "workspace", &[]).await.ok();
    let (ana, ben) = (
        Begun::at(&link(&app, "ana", None).await).await,
        Begun::at(&link(&app, "ben", None).await).await,
    );
    let again = Begun::at(&link(&app, "ana", None).await).await;
    let payload = |cookie: &str| {
        let text = cookie
            .split_once('=')
            .expect("a value")
            .1
            .split_once('.')
            .expect("a signature")
            .0
            .to_owned();
        serde_json::from_slice::<Value>(&URL_SAFE.decode(text).expect("base64")).expect("JSON")
    };
    let sealer = sealer(&app).await;
    let with = |change: &dyn Fn(&mut Value), what: &str| {
        let mut said = payload(&ana.cookie);
        change(&mut said);
        let text = URL_SAFE.encode(said.to_string());
        let signature = URL_SAFE.encode(sealer.sign(what, &text).expect("signed"));
        format!("mcp_api_google={text}.{signature}")
    };
    let url = callback(&app, &google.code(), &ana.state());
    let as_ben = with(&|said| said["user"] = json!("ben"), "google cookie");
    let unsigned = with(&|said| said["user"] = json!("ana"), "google link");
    let late = with(&|said| said["until"] = json!(now() - 1), "google cookie");
    let gone = with(
        &|said| said["server"] = json!(uuid::Uuid::new_v4()),
        "google cookie",
    );
    for (cookie, status, why) in [
        (None, 403, "did not begin this"),
        (Some("mcp_api_google="), 403, "did not begin this"),
        (Some("mcp_api_google=e30.AAAA"), 403, "did not begin this"),
        (Some(ben.cookie.as_str()), 403, "another sign-in"),
        (Some(again.cookie.as_str()), 403, "another sign-in"),
        (Some(as_ben.as_str()), 403, "another user"),
        (Some(unsigned.as_str()), 403, "did not begin this"),
        (Some(late.as_str()), 403, "did not begin this"),
        (Some(gone.as_str()), 404, "not found"),
    ] {
        let page = open(&url, cookie).await;
        assert!(
            page.status == status && page.text.contains(why),
            "{cookie:?}: {} {}",
            page.status,
            page.text
        );
    }
    for user in ["ana", "ben"] {
        app.call(user, "workspace", "show", json!({}))
            .await
            .fails(401, "reauth_required");
    }
    // The code is still valid, once.
    assert_eq!(open(&url, Some(&ana.cookie)).await.status, 200);
    let page = open(&url, Some(&ana.cookie)).await;
    assert!(
        page.status == 502 && page.text.contains("invalid_grant"),
        "{} {}",
        page.status,
        page.text
    );
    assert!(
        page.text.contains("&lt;b&gt;no such code: ***&lt;/b&gt;"),
        "{}",
        page.text
    );
    assert_eq!(
        shown(&app, "ana", "workspace", json!({})).await["userCredentials"],
        google.tokens(),
        "the first tokens stay"
    );
}

#[tokio::test]
async fn a_failure_is_shown_as_a_page() {
    let google = Google::start().await;
    let app = App::start();
    let login = |query: &str| format!("{}/auth/google/login?{query}", app.url);
    let back = |query: &str| format!("{}/auth/google/callback?{query}", app.url);
    assert_eq!(
        open(&login("user_id=ana"), None).await.status,
        404,
        "no server signs in to Google"
    );
    app.register_fixture("fixture").await.ok();
    register(&app, &google, "first", &[]).await.ok();
    register(&app, &google, "second", &[("STATE_USER", "somebody else")])
        .await
        .ok();
    register(
        &app,
        &google,
        "third",
        &[("GOOGLE_PAGE", "ftp://files.example/")],
    )
    .await
    .ok();
    for (url, status, why) in [
        (login(""), 400, "user_id"),
        (login("user_id="), 400, "1 to 256 characters"),
        (login("user_id=ana&other=1"), 400, "other"),
        (login("user_id=ana"), 400, "name one of them"),
        (
            login("user_id=ana&server=fixture"),
            400,
            "MCP_AUTH_TYPE=OAUTH2_GOOGLE",
        ),
        (login("user_id=ana&server=nobody"), 404, "nobody"),
        (login("user_id=ana&server=second"), 502, "userId"),
        (login("user_id=ana&server=third"), 502, "https URL"),
        (
            login("user_id=ana&server=first&signature=AAAA&expires=99999999999"),
            403,
            "was changed",
        ),
        (back("code=x"), 400, "state is missing"),
        (back("code=x&state=y"), 403, "did not begin this"),
        (
            back(&format!("code=x&state={}", "y".repeat(5000))),
            400,
            "state",
        ),
        (back("error=%3Cscript%3E"), 400, "state is missing"),
    ] {
        let page = open(&url, None).await;
        assert!(
            page.status == status && page.text.contains(why),
            "{url}: {} {}",
            page.status,
            page.text
        );
        let header = |name: &str| page.headers[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(
            (header("cache-control"), header("referrer-policy")),
            ("no-store".into(), "no-referrer".into())
        );
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
    }
    let begun = Begun::at(&login(
        "user_id=%3Cscript%3Ealert(1)%3C/script%3E&server=first",
    ))
    .await;
    let page = open(
        &callback(&app, &google.code(), &begun.state()),
        Some(&begun.cookie),
    )
    .await;
    assert!(
        page.status == 200
            && page.text.contains("&lt;script&gt;")
            && !page.text.contains("<script"),
        "{}",
        page.text
    );
    app.put("/mcp/servers/first/disable", json!({})).await.ok();
    assert_eq!(
        open(&login("user_id=ana&server=first"), None).await.status,
        409
    );
    for (body, status, code) in [
        (json!({}), 400, "invalid_request"),
        (json!({ "serverName": "nobody" }), 404, "server_not_found"),
        (json!({ "serverName": "fixture" }), 400, "invalid_request"),
        (json!({ "user": "ana" }), 400, "invalid_request"),
    ] {
        app.post("/auth/google/link", body)
            .await
            .fails(status, code);
    }
}

#[tokio::test]
async fn tokens_appear_in_no_log_and_no_answer() {
    let google = Google::start().await;
    let env = [
        ("RUST_LOG", "trace"),
        ("ADMIN_TOKEN", super::TOKEN),
        ("GOOGLE_OAUTH_CREDENTIALS", CREDENTIALS.as_str()),
    ];
    let app = with_token(App::embedded_with(&env));
    register(&app, &google, "fixture", &[]).await.ok();
    let code = google.code();
    let begun = Begun::at(&link(&app, "ana", None).await).await;
    let page = open(&callback(&app, &code, &begun.state()), Some(&begun.cookie)).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let tokens = google.tokens();
    let mut planted: Vec<_> = ["access_token", "refresh_token", "id_token"]
        .iter()
        .map(|name| tokens[name].as_str().expect("a text"))
        .collect();
    planted.extend([CLIENT_SECRET, code.as_str()]);
    for crash in [false, true] {
        let answer = app
            .call("ana", "fixture", "leak", json!({ "crash": crash }))
            .await;
        assert_eq!(answer.status, 502, "{}", answer.body);
        clean("the answer", answer.body.to_string().as_bytes(), &planted);
        assert!(answer.body.to_string().contains("***"), "{}", answer.body);
    }
    let logs = app.server("fixture").await["logs"].to_string();
    for kept in [
        "exchanging",
        "got ....",
        "leak: ",
        "\\\"access_token\\\":\\\"***",
    ] {
        assert!(logs.contains(kept), "{kept}: {logs}");
    }
    clean_everywhere(&app, &planted).await;
    let got = shown(&app, "ana", "fixture", json!({})).await;
    assert_eq!(got["userCredentials"], tokens, "the call still works");
}

#[test]
fn invalid_application_credentials_are_refused_at_start() {
    let dir = TempDir::new().expect("a folder");
    for bad in [
        "s3cret",
        "{}",
        "[]",
        r#"{"web":"s3cret"}"#,
        r#"{"web":{"client_secret":"s3cret"}}"#,
        "'{\"web\":{}}'",
    ] {
        let said = refused(dir.path(), &[("GOOGLE_OAUTH_CREDENTIALS", bad)]);
        assert!(
            said.contains("GOOGLE_OAUTH_CREDENTIALS") && !said.contains("s3cret"),
            "{said}"
        );
    }
}

/// A server that hangs during the exchange ends in a timeout.
#[tokio::test]
async fn an_exchange_has_a_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let silent = format!(
        "http://{}/token",
        listener.local_addr().expect("an address")
    );
    let google = Google::start().await;
    let app = App::start();
    register(&app, &google, "workspace", &[("GOOGLE_TOKENS", &silent)])
        .await
        .ok();
    app.put("/mcp/servers/workspace", json!({ "toolTimeout": 300 }))
        .await
        .ok();
    let page = tokio::time::timeout(Duration::from_secs(20), connect(&app, &google, "ana", None))
        .await
        .expect("in time");
    assert!(
        page.status == 504 && page.text.contains("300 ms"),
        "{} {}",
        page.status,
        page.text
    );
}

/// Callers without a token cannot use up what signed-in callers need.
#[tokio::test]
async fn repeated_callbacks_of_one_sign_in_are_limited() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let silent = format!(
        "http://{}/token",
        listener.local_addr().expect("an address")
    );
    let google = Google::start().await;
    let app = App::start();
    register(&app, &google, "workspace", &[("GOOGLE_TOKENS", &silent)])
        .await
        .ok();
    let begun = Begun::at(&format!("{}/auth/google/login?user_id=ana", app.url)).await;
    let url = callback(&app, &google.code(), &begun.state());
    let mut pages: FuturesUnordered<_> = (0..12)
        .map(|_| open(&url, Some(begun.cookie.as_str())))
        .collect();
    // Four callbacks wait for the silent token endpoint. The other callbacks are refused at once.
    for _ in 0..8 {
        let page = pages.next().await.expect("a page");
        assert_eq!(page.status, 503, "{}", page.text);
        assert_eq!(page.headers["retry-after"], "1");
    }
    app.set_secret("ben", "workspace", "token", "value").await;
}
