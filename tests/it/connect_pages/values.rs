//! Values: a person sets and removes them, and no page shows them.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ADMIN, call, open, register, register_remote, set, signed_in, start, token};
use crate::callers::send;

const VALUE: &str = "plant-of-ana-93c1";

#[tokio::test]
async fn a_person_sets_replaces_and_removes_a_value() {
    let app = start();
    let credentials = json!([
        { "name": "message", "required": true, "description": "The text to <b>echo</b>.\nOf any length." },
        { "name": "OTHER", "in": "argument" },
    ]);
    register(&app, ADMIN, "fixture", credentials).await;
    let (ana, ben) = (token(&app, "ana").await, token(&app, "ben").await);
    let mut client = signed_in(&app, &ana).await;
    let list = client.get(&format!("{}/connect", app.url)).await;
    assert_eq!(list.status, 200);
    assert!(
        list.text.contains("fixture</a>: needs message"),
        "{}",
        list.text
    );
    assert!(
        list.text.contains("You are signed in as user ana."),
        "{}",
        list.text
    );

    let page = open(&app, &mut client, "fixture").await;
    for part in [
        "Not set, and required: calls are refused until you set it.",
        "<p>The text to &lt;b&gt;echo&lt;/b&gt;.</p>",
        "<p>Of any length.</p>",
        "<label for=\"value-0\">New value of message</label>",
        "id=\"value-0\" name=\"value\" type=\"password\" autocomplete=\"off\" required",
    ] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert!(page.form("/secrets/delete").is_none());
    call(&app, &ana, "echo")
        .await
        .fails(401, "credential_required");

    for value in ["an-earlier-value", VALUE] {
        let page = open(&app, &mut client, "fixture").await;
        let response = set(&mut client, &page, "message", value).await;
        assert_eq!(response.header("location"), "/connect/fixture");
        let confirmed = client.follow(&response).await;
        let confirmation = "<p role=\"status\">The value of message is stored.</p>";
        assert!(confirmed.text.contains(confirmation), "{}", confirmed.text);
        assert!(
            confirmed.text.contains("<p>Set on 20"),
            "{}",
            confirmed.text
        );
        // A page confirms an action once.
        let again = open(&app, &mut client, "fixture").await;
        assert!(!again.text.contains(confirmation), "{}", again.text);
        for page in [response, confirmed, again] {
            assert!(!page.text.contains(value), "{}", page.text);
            assert!(!format!("{:?}", page.headers).contains(value));
        }
        let found = call(&app, &ana, "echo").await.ok();
        assert!(found.to_string().contains(value), "{found}");
    }
    call(&app, &ben, "echo")
        .await
        .fails(401, "credential_required");
    let list = client.get(&format!("{}/connect", app.url)).await;
    assert!(
        list.text.contains("fixture</a>: 1 of 2 values set"),
        "{}",
        list.text
    );

    let page = open(&app, &mut client, "fixture").await;
    let response = client.submit(&page, "/secrets/delete", &[]).await;
    let removed = client.follow(&response).await;
    assert!(
        removed.text.contains("The value of message is removed."),
        "{}",
        removed.text
    );
    call(&app, &ana, "echo")
        .await
        .fails(401, "credential_required");
    // A second click on the same button is no error.
    let response = client.submit(&page, "/secrets/delete", &[]).await;
    assert_eq!(response.status, 303, "{}", response.text);
    let events = send(&app, ADMIN, Method::GET, "/events?limit=1000", None)
        .await
        .ok();
    assert!(!events.to_string().contains(VALUE) && !app.log().contains(VALUE));
    let is_of_ana = |event: &&Value| {
        let actor = &event["actor"];
        event["type"] == "secret.set" && actor["kind"] == "browser" && actor["user"] == "ana"
    };
    let of_ana = events["events"].as_array().expect("events").iter();
    assert_eq!(of_ana.filter(is_of_ana).count(), 2, "{events}");
}

#[tokio::test]
async fn a_variable_of_a_page_is_in_the_process_of_its_user_only() {
    let app = start();
    let credentials = json!([{ "name": "PAGE_KEY", "in": "env", "required": true }]);
    register(&app, ADMIN, "fixture", credentials).await;
    let (ana, ben) = (token(&app, "ana").await, token(&app, "ben").await);
    for (user, value) in [(&ana, VALUE), (&ben, "plant-of-ben-07ad")] {
        let mut client = signed_in(&app, user).await;
        let page = open(&app, &mut client, "fixture").await;
        let response = set(&mut client, &page, "PAGE_KEY", value).await;
        assert_eq!(response.status, 303, "{}", response.text);
    }
    for (user, value) in [(&ana, VALUE), (&ben, "plant-of-ben-07ad")] {
        let found = call(&app, user, "environment").await.ok().to_string();
        assert!(found.contains(value), "{found}");
    }
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_refused_at_its_field_and_not_repeated() {
    let app = start();
    register_remote(&app, "remote").await;
    let mut client = signed_in(&app, &token(&app, "ana").await).await;
    let page = open(&app, &mut client, "remote").await;
    for (value, sentence) in [
        (
            "plant-17\nX-Other: a",
            "The value does not fit API_KEY: a header must be visible ASCII",
        ),
        (
            "plant-17-\u{e9}",
            "The value does not fit API_KEY: a header must be visible ASCII",
        ),
        ("", "Enter a value for API_KEY"),
    ] {
        let refused = set(&mut client, &page, "API_KEY", value).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        for part in [
            "<title>Error – Server remote</title>",
            "<div role=\"alert\" tabindex=\"-1\" autofocus>",
            "<a href=\"#value-0\">",
            "aria-invalid=\"true\" aria-describedby=\"value-0-problem value-0-hint\"",
            sentence,
        ] {
            assert!(refused.text.contains(part), "{part}: {}", refused.text);
        }
        assert!(!refused.text.contains("plant-17"), "{}", refused.text);
        // The person corrects the value on the page with the problem.
        assert!(refused.form_with("/secrets", "name", "API_KEY").is_some());
    }
    let long = "a".repeat(70_000);
    let refused = set(&mut client, &page, "API_KEY", &long).await;
    assert_eq!(refused.status, 413, "{}", refused.text);
    // The program has not read the whole request, so it closes the connection of that client.
    let mut client = signed_in(&app, &token(&app, "ana").await).await;
    let page = open(&app, &mut client, "remote").await;
    let form = page
        .form_with("/secrets", "name", "API_KEY")
        .expect("a form");
    let token = &form.fields[0].1;
    let url = format!("{}/connect/remote/secrets", app.url);
    for (name, owner, sentence) in [
        ("UNKNOWN", "user", "Server remote does not ask for UNKNOWN"),
        ("", "user", "The field name of the form must be"),
        ("API_KEY", "all", "The field owner of the form must be"),
    ] {
        let fields = [
            ("form_token", token.as_str()),
            ("name", name),
            ("owner", owner),
            ("value", "plant-17"),
        ];
        let refused = client.post(&url, &fields).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(
            refused.text.contains(sentence),
            "{sentence}: {}",
            refused.text
        );
        assert!(!refused.text.contains("plant-17"), "{}", refused.text);
    }
    assert!(!app.log().contains("plant-17"));
    let corrected = set(&mut client, &page, "API_KEY", "a-good-key").await;
    assert_eq!(corrected.status, 303, "{}", corrected.text);
}

#[tokio::test]
async fn a_shared_value_has_a_form_for_administrators_only() {
    let app = start();
    let credentials = json!([{ "name": "message", "owner": "shared", "required": true }]);
    register(&app, ADMIN, "fixture", credentials).await;
    let ana = token(&app, "ana").await;
    let mut of_ana = signed_in(&app, &ana).await;
    let page = open(&app, &mut of_ana, "fixture").await;
    assert!(
        page.text
            .contains("calls are refused until an administrator sets it"),
        "{}",
        page.text
    );
    assert!(page.form("/secrets").is_none() && !page.text.contains("type=\"password\""));

    let mut of_admin = signed_in(&app, ADMIN).await;
    let page = open(&app, &mut of_admin, "fixture").await;
    let response = set(&mut of_admin, &page, "message", VALUE).await;
    of_admin.follow(&response).await;
    let found = call(&app, &ana, "echo").await.ok();
    assert!(found.to_string().contains(VALUE), "{found}");

    let page = open(&app, &mut of_ana, "fixture").await;
    assert!(
        page.text
            .contains("Set by an administrator, for all users on 20"),
        "{}",
        page.text
    );
    let list = of_ana.get(&format!("{}/connect", app.url)).await;
    let token = list.form("/signout").expect("a form").fields[0].1.clone();
    for (path, more) in [("secrets", "forged"), ("secrets/delete", "")] {
        let fields = [
            ("form_token", token.as_str()),
            ("name", "message"),
            ("owner", "shared"),
            ("value", more),
        ];
        let refused = of_ana
            .post(&format!("{}/connect/fixture/{path}", app.url), &fields)
            .await;
        refused.refuses(403, "scope admin");
        let own = [
            ("form_token", token.as_str()),
            ("name", "message"),
            ("owner", "user"),
            ("value", "forged"),
        ];
        let refused = of_ana
            .post(&format!("{}/connect/fixture/secrets", app.url), &own)
            .await;
        assert_eq!(refused.status, 400, "{}", refused.text);
    }
    let found = call(&app, &ana, "echo").await.ok();
    assert!(found.to_string().contains(VALUE), "{found}");
    let page = open(&app, &mut of_admin, "fixture").await;
    let response = of_admin.submit(&page, "/secrets/delete", &[]).await;
    of_admin.follow(&response).await;
    call(&app, &ana, "echo")
        .await
        .fails(401, "credential_required");
}
