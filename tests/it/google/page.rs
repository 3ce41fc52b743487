//! The fixture in the place of Google: a consent page and a token endpoint.

use std::collections::HashSet;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Clone)]
pub struct Google {
    /// Its host is `localhost`, which is another site than 127.0.0.1.
    pub url: String,
    codes: Arc<Mutex<HashSet<String>>>,
    tokens: Arc<Mutex<Value>>,
}

impl Google {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!(
            "http://localhost:{}",
            listener.local_addr().expect("an address").port()
        );
        let google = Self {
            url,
            codes: Arc::default(),
            tokens: Arc::new(Mutex::new(fresh())),
        };
        let router = Router::new()
            .route("/consent", get(consent))
            .route("/answer", post(answer));
        let router = router
            .route("/token", post(token))
            .with_state(google.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        google
    }

    /// Returns a code that is valid once.
    pub fn code(&self) -> String {
        let code = format!("4/plant-code-{}", Uuid::new_v4().simple());
        self.codes.lock().expect("codes").insert(code.clone());
        code
    }

    /// Returns the tokens for a code.
    pub fn tokens(&self) -> Value {
        self.tokens.lock().expect("tokens").clone()
    }

    pub fn set_tokens(&self, tokens: Value) {
        *self.tokens.lock().expect("tokens") = tokens;
    }
}

/// Returns unique tokens, so that a test can search for them.
pub fn fresh() -> Value {
    let token = |kind: &str| format!("{kind}-plant-{}\"<&", Uuid::new_v4().simple());
    json!({
        "access_token": token("ya29.access"),
        "refresh_token": token("1//refresh"),
        "id_token": token("eyJ.id"),
        "token_type": "Bearer",
        "expiry_date": 1_700_000_000_000_u64,
        "scope": "mail",
    })
}

#[derive(Deserialize)]
struct Asked {
    state: String,
    redirect_uri: String,
    #[serde(default)]
    answer: String,
}

async fn consent(Query(asked): Query<Asked>) -> Html<String> {
    let field = |name: &str, value: &str| {
        let value = value.replace('&', "&amp;").replace('"', "&quot;");
        format!("<input type=hidden name={name} value=\"{value}\">")
    };
    Html(format!(
        "<h1>May it read your mail?</h1><form method=post action=/answer>{}{}\
         <button id=allow name=answer value=allow>Allow</button><button id=deny name=answer value=deny>Deny</button></form>",
        field("state", &asked.state),
        field("redirect_uri", &asked.redirect_uri)
    ))
}

async fn answer(State(google): State<Google>, body: String) -> Redirect {
    let asked: Asked = form(&body);
    let code = google.code();
    let said = if asked.answer == "allow" {
        ("code", code.as_str())
    } else {
        ("error", "access_denied")
    };
    let query = [said, ("state", &asked.state), ("scope", "mail")];
    Redirect::to(
        reqwest::Url::parse_with_params(&asked.redirect_uri, query)
            .expect("a URL")
            .as_str(),
    )
}

#[derive(Deserialize)]
struct Exchange {
    code: String,
}

async fn token(State(google): State<Google>, body: String) -> Response {
    let exchange: Exchange = form(&body);
    if google.codes.lock().expect("codes").remove(&exchange.code) {
        return Json(google.tokens()).into_response();
    }
    (
        StatusCode::BAD_REQUEST,
        format!("no such code: {}", exchange.code),
    )
        .into_response()
}

/// Parses a form body, which has the syntax of a query.
fn form<T: serde::de::DeserializeOwned>(body: &str) -> T {
    let uri = format!("/?{body}").parse().expect("a query");
    Query::try_from_uri(&uri).expect("the fields").0
}
