//! The reference server behind Streamable HTTP: each request carries the header of its caller.

use serde_json::json;

use super::text_of;
use crate::harness::App;
use crate::remote::{Kind, Real, register};

#[tokio::test]
async fn each_request_to_a_real_server_has_the_header_of_its_caller() {
    let real = Real::start(Kind::Everything("streamableHttp", "/mcp")).await;
    let app = App::start();
    let credentials = json!([
        { "name": "KEY", "in": "header", "as": "Authorization", "format": "Bearer {value}", "required": true },
    ]);
    let more = json!({ "credentials": credentials });
    let server = register(&app, "everything", &real.url(), more).await.ok()["server"].take();
    assert_eq!(server["needsCredentials"], json!(["KEY"]), "{server}");
    assert!(real.requests().is_empty(), "nothing starts without a user");
    for user in ["ana", "ben"] {
        let key = format!("s3cret-of-{user}");
        app.set_secret(user, "everything", "KEY", &key).await;
    }
    // All calls run at once, so that a mix-up of users is visible.
    let users = ["ana", "ben"].iter().cycle().take(24);
    let calls = users.map(async |user| {
        let message = json!({ "message": user });
        let said = text_of(app.call(user, "everything", "echo", message).await);
        assert_eq!(said, format!("Echo: {user}"));
    });
    futures::future::join_all(calls).await;
    let missing = app.call("cem", "everything", "echo", json!({})).await;
    missing.fails(401, "credential_required");
    drop(app);

    let requests = real.requests();
    let of_user = |user: &str| {
        let key = format!("Bearer s3cret-of-{user}");
        let own = requests.iter();
        own.filter(move |request| request["headers"]["authorization"] == key.as_str())
    };
    let (ana, ben) = (of_user("ana").count(), of_user("ben").count());
    assert_eq!(ana + ben, requests.len(), "a request has another header");
    assert!(ana > 12 && ben > 12, "{ana} and {ben} requests");
    // A session belongs to one user.
    for request in of_user("ana") {
        let session = &request["headers"]["mcp-session-id"];
        let mut of_ben = of_user("ben").filter(|_| !session.is_null());
        assert!(of_ben.all(|other| other["headers"]["mcp-session-id"] != *session));
    }
}
