//! Unit tests of remote endpoints: URLs, headers, credentials and updates.

use super::*;

#[test]
fn a_url_is_split_from_its_user_info() {
    let split = |text: &str| split_user_info(text).map_err(|failure| failure.message);
    assert_eq!(
        split("https://h/mcp?a=b"),
        Ok(("https://h/mcp?a=b".into(), None))
    );
    assert_eq!(
        split("https://u:p%40@h:1/mcp"),
        Ok(("https://***@h:1/mcp".into(), Some("u:p%40".into())))
    );
    assert_eq!(
        split("http://u@h"),
        Ok(("http://***@h/".into(), Some("u".into())))
    );
    assert_eq!(plain_url("https://***@h:1/mcp"), "https://h:1/mcp");
    for bad in [
        "",
        "h/mcp",
        "ftp://h",
        "http://",
        "http://h/#x",
        "unix:/x",
        "http://u:secret@ h",
    ] {
        let refused = split(bad).expect_err(bad);
        assert!(!refused.contains("secret"), "{refused}");
    }
}

#[test]
fn headers_of_the_protocol_and_broken_ones_are_refused() {
    let plain = |value: &str| HeaderValue::Plain(value.into());
    assert!(check_header("X-Custom", &plain("a b")).is_ok());
    for (name, value) in [
        ("Mcp-Session-Id", "x"),
        ("host", "x"),
        ("a b", "x"),
        ("", "x"),
        ("x", "a\r\nb: c"),
    ] {
        assert!(check_header(name, &plain(value)).is_err(), "{name}");
    }
}

fn value(number: u128) -> ValueId {
    ValueId(uuid::Uuid::from_u128(number))
}

/// Returns an endpoint at `https://h` with user info (1), X-Api-Key (2) and a plain User-Agent.
fn with_credentials() -> Remote {
    let mut remote = Remote::new("https://***@h/mcp");
    remote.user_info = Some(value(1));
    remote
        .headers
        .insert("X-Api-Key".into(), HeaderValue::Sealed { sealed: value(2) });
    remote
        .headers
        .insert("User-Agent".into(), HeaderValue::Plain("a".into()));
    remote
}

fn parse(change: &str) -> RemoteChange {
    serde_json::from_str(change).expect("an update")
}

fn apply(change: &str) -> Result<Remote, Failure> {
    let mut remote = with_credentials();
    remote.apply(&parse(change)).map(|()| remote)
}

#[test]
fn all_headers_but_a_few_harmless_ones_are_credentials() {
    for name in [
        "Authorization",
        "X-Api-Key",
        "X-Auth-Token",
        "Private-Token",
        "X-Goog-Api-Key",
        "Ocp-Apim-Subscription-Key",
        "X-Unknown",
    ] {
        assert!(is_credential_header(name), "{name}");
    }
    for name in ["User-Agent", "accept-language", "Cache-Control"] {
        assert!(!is_credential_header(name), "{name}");
    }
}

#[test]
fn a_header_that_names_the_client_does_not_authenticate_it() {
    for name in ["Authorization", "Cookie", "X-Api-Key", "Private-Token"] {
        assert!(is_authentication_header(name), "{name}");
    }
    for name in ["X-Client-Name", "X-Tenant", "X-Region"] {
        assert!(!is_authentication_header(name), "{name}");
    }
}

#[test]
fn another_path_of_the_same_origin_keeps_credentials() {
    let remote = apply(r#"{"url":"https://***@h/other"}"#).expect("an endpoint");
    assert_eq!(remote.url, "https://***@h/other");
    assert_eq!(remote.values().collect::<Vec<_>>(), [value(1), value(2)]);
}

#[test]
fn another_origin_gets_no_stored_credential() {
    for url in [
        "https://***@evil/mcp",
        "http://***@h/mcp",
        "https://***@h:8443/mcp",
    ] {
        let failure = apply(&format!(r#"{{"url":"{url}"}}"#)).expect_err(url);
        assert!(failure.message.contains("headers.X-Api-Key"), "{failure}");
        assert!(failure.message.contains("user info"), "{failure}");
        assert!(!failure.message.contains("User-Agent"), "{failure}");
    }
}

#[test]
fn another_origin_gets_no_header_that_an_update_hides() {
    let change = r#"{"url":"https://evil/","userInfo":null,"headers":{"x-api-key":null}}"#;
    let failure = apply(change).expect_err("a kept header");
    assert!(failure.message.contains("X-Api-Key"), "{failure}");
    assert!(!failure.message.contains("user info"), "{failure}");
}

#[test]
fn another_origin_gets_no_credential_that_is_stored_in_plain_text() {
    let mut remote = Remote::new("https://h/mcp");
    remote
        .headers
        .insert("X-Auth-Token".into(), HeaderValue::Plain("s3cret".into()));
    let failure = remote
        .apply(&parse(r#"{"url":"https://evil/","userInfo":null}"#))
        .expect_err("a kept header");
    assert!(failure.message.contains("X-Auth-Token"), "{failure}");
    assert!(!failure.message.contains("s3cret"), "{failure}");
}

#[test]
fn another_origin_gets_new_or_no_credentials() {
    let change = format!(
        r#"{{"url":"https://new/","userInfo":null,"headers":{{"X-Api-Key":{{"sealed":"{}"}}}}}}"#,
        value(3)
    );
    let remote = apply(&change).expect("an endpoint");
    assert_eq!(remote.values().collect::<Vec<_>>(), [value(3)]);
    let remote = apply(r#"{"url":"https://new/","userInfo":null,"headers":{}}"#);
    assert_eq!(remote.expect("an endpoint").values().count(), 0);
}

#[test]
fn stars_without_a_stored_value_are_refused() {
    let mut remote = Remote::new("https://h/");
    for change in [
        r#"{"url":"https://***@h/"}"#,
        r#"{"headers":{"X-Api-Key":null}}"#,
        r#"{"url":"https://h/?key=***","userInfo":null}"#,
        r#"{"url":"https://h/?***","userInfo":null}"#,
    ] {
        let failure = remote.apply(&parse(change)).expect_err(change);
        assert!(failure.message.contains("***"), "{failure}");
    }
}

/// Returns an endpoint with two sealed values in its query (4 and 5), a plain one and a harmless one.
fn with_query() -> Remote {
    let mut remote = Remote::new("https://h/mcp?v=1&key=***&key=***&old=plain");
    remote.query = vec![value(4), value(5)];
    remote
}

#[test]
fn a_hidden_value_of_the_query_keeps_the_stored_value() {
    let mut remote = with_query();
    let change = format!(
        r#"{{"url":"https://h/mcp?old=***&key=***&v=2&new=***&key=***","userInfo":null,"query":[null,null,"{}",null]}}"#,
        value(6)
    );
    remote.apply(&parse(&change)).expect("an endpoint");
    assert_eq!(
        remote.url,
        "https://h/mcp?old=plain&key=***&v=2&new=***&key=***"
    );
    assert_eq!(remote.query, [value(4), value(6), value(5)]);
    assert_eq!(remote.values().count(), 3);
}

#[test]
fn an_absent_parameter_is_removed() {
    let mut remote = with_query();
    let change = r#"{"url":"https://h/mcp?v=1","userInfo":null}"#;
    remote.apply(&parse(change)).expect("an endpoint");
    assert_eq!(
        (remote.url.as_str(), remote.query.len()),
        ("https://h/mcp?v=1", 0)
    );
}

#[test]
fn another_origin_gets_no_stored_value_of_the_query() {
    for name in ["key", "old"] {
        let change = format!(r#"{{"url":"https://evil/?{name}=***","userInfo":null}}"#);
        let failure = with_query().apply(&parse(&change)).expect_err(name);
        let expected = format!("the parameter {name} in the query of url");
        assert!(failure.message.contains(&expected), "{failure}");
        assert!(!failure.message.contains("plain"), "{failure}");
    }
    let change = format!(
        r#"{{"url":"https://new/?key=***","userInfo":null,"query":["{}"]}}"#,
        value(6)
    );
    let mut remote = with_query();
    remote.apply(&parse(&change)).expect("an endpoint");
    assert_eq!(remote.query, [value(6)]);
}

#[test]
fn an_endpoint_of_an_earlier_version_has_no_sealed_query() {
    let stored = r#"{"url":"https://h/?key=plain","headers":{},"reconnectionOptions":{}}"#;
    let remote: Remote = serde_json::from_str(stored).expect("an endpoint");
    assert_eq!(
        (remote.url.as_str(), remote.query.len()),
        ("https://h/?key=plain", 0)
    );
    let written = serde_json::to_string(&remote).expect("JSON");
    assert!(!written.contains("query"), "{written}");
}

#[test]
fn an_absent_header_is_removed_and_a_null_header_is_kept() {
    let remote = apply(r#"{"headers":{"x-api-key":null}}"#).expect("an endpoint");
    let sealed = HeaderValue::Sealed { sealed: value(2) };
    assert_eq!(remote.headers, [("x-api-key".to_owned(), sealed)].into());
}

#[test]
fn null_restores_the_default_reconnection_options() {
    let set = apply(r#"{"reconnectionOptions":{"maxRetries":7}}"#).expect("an endpoint");
    assert_eq!(set.reconnection_options.max_retries, 7);
    let cleared = apply(r#"{"reconnectionOptions":null}"#).expect("an endpoint");
    assert_eq!(cleared.reconnection_options, ReconnectionOptions::default());
}

#[test]
fn reconnection_options_have_limits() {
    for options in [
        r#"{"maxReconnectionDelay":86400001}"#,
        r#"{"initialReconnectionDelay":86400001}"#,
        r#"{"reconnectionDelayGrowFactor":0.5}"#,
        r#"{"reconnectionDelayGrowFactor":101}"#,
        r#"{"maxRetries":1001}"#,
    ] {
        let mut remote = Remote::new("https://h/");
        remote.reconnection_options = serde_json::from_str(options).expect("options");
        assert!(remote.check().is_err(), "{options}");
    }
}

#[test]
fn a_header_in_two_spellings_is_refused() {
    let mut remote = Remote::new("https://h/");
    for name in ["X-A", "x-a"] {
        remote
            .headers
            .insert(name.into(), HeaderValue::Plain("1".into()));
    }
    assert!(remote.check().is_err());
}

#[test]
fn a_session_id_is_visible_ascii() {
    assert!(check_session_id("abc-123").is_ok());
    for bad in ["", "a b", "a\n", "ü", &"x".repeat(1025)] {
        assert!(check_session_id(bad).is_err(), "{bad:?}");
    }
}
