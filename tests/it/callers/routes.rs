//! Every route with every kind of caller.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::table::{PUBLIC, UserField, routes};
use super::{ADMIN, app_with_fixture, make_token, send};

#[tokio::test]
async fn every_route_is_in_the_table() {
    let document: Value = serde_json::from_str(include_str!("../../../schemas/openapi.json"))
        .expect("the OpenAPI document");
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let mut listed: BTreeSet<_> = PUBLIC.iter().map(|route| (*route).to_owned()).collect();
    for route in routes() {
        let name = format!("{} {}", route.method, route.template);
        assert!(listed.insert(name.clone()), "{name} is listed twice");
    }
    assert_eq!(documented, listed);
}

#[tokio::test]
async fn every_route_admits_the_callers_with_its_scope_and_no_other() {
    let app = app_with_fixture().await;
    let mut callers = vec![("admin token", ADMIN.to_owned(), "admin")];
    for scope in ["tools", "secrets", "tokens", "audit", "metrics", "admin"] {
        let body = json!({ "username": "ana", "scopes": [scope] });
        let (_, token) = make_token(&app, ADMIN, body).await;
        callers.push((scope, token, scope));
    }
    for route in routes() {
        for user in [None, Some("ana"), Some("ben")] {
            if user.is_some() && route.user == UserField::Absent {
                continue;
            }
            let (path, body) = route.request(user);
            let shown = format!("{} {path} {body:?}", route.method);
            let request = async |token: &str| {
                send(&app, token, route.method.clone(), &path, body.clone()).await
            };
            let anonymous = request("").await;
            assert_eq!(anonymous.status, 401, "{shown} without a token");
            for (name, token, scope) in &callers {
                let is_admin = *scope == "admin";
                let has_scope = route.scope.is_empty() || is_admin || route.scope == *scope;
                let names_other = user == Some("ben") && !is_admin;
                let found = request(token).await;
                let shown = format!("{shown} by {name}: {} {}", found.status, found.body);
                if !has_scope || names_other {
                    assert_eq!(found.status, 403, "{shown}");
                    assert_eq!(found.body["code"], "forbidden", "{shown}");
                } else if route.path == "/secrets/delete" {
                    // The secret exists only for the user of the request before.
                    assert!(matches!(found.status, 200 | 404), "{shown}");
                } else {
                    assert_eq!(found.status, route.status, "{shown}");
                    if !route.code.is_empty() {
                        assert_eq!(found.body["code"], route.code, "{shown}");
                    }
                }
            }
        }
    }
}
