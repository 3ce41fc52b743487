//! Unit tests of the configuration of servers.

use super::*;

fn stdio(command: &str, args: &[&str]) -> ServerConfig {
    ServerConfig::new(Transport::Stdio {
        command: command.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
    })
}

fn remote() -> ServerConfig {
    ServerConfig::new(Transport::StreamableHttp(Remote::new("https://h/mcp")))
}

fn parse(change: &str) -> ServerChange {
    serde_json::from_str(change).expect("an update")
}

#[test]
fn an_absent_field_keeps_its_value() {
    let config = stdio("npx", &["-y"]);
    let change = parse("{}");
    assert_eq!(change, ServerChange::default());
    assert_eq!(change.apply_to(&config).expect("a configuration"), config);
    assert_eq!(serde_json::to_string(&change).expect("JSON"), "{}");
}

#[test]
fn a_present_field_replaces_the_whole_value() {
    let change = parse(r#"{"args":["a"],"replicas":"each","resetTimeoutOnProgress":true}"#);
    let config = change
        .apply_to(&stdio("npx", &["-y", "b"]))
        .expect("a configuration");
    assert_eq!(config.replicas, Replicas::Each);
    assert!(config.reset_timeout_on_progress);
    assert_eq!(config.transport, stdio("npx", &["a"]).transport);
}

#[test]
fn null_restores_the_default_time_limit() {
    let mut config = stdio("npx", &[]);
    config.tool_timeout = Some(5);
    let cleared = parse(r#"{"toolTimeout":null}"#).apply_to(&config);
    assert_eq!(cleared.expect("a configuration").tool_timeout, None);
    let set = parse(r#"{"toolTimeout":7}"#).apply_to(&config);
    assert_eq!(set.expect("a configuration").tool_timeout, Some(7));
}

#[test]
fn the_default_as_a_number_is_no_change() {
    let config = stdio("npx", &[]);
    let change = parse(r#"{"toolTimeout":60000,"startupTimeout":60000}"#);
    assert_eq!(change.apply_to(&config).expect("a configuration"), config);
}

#[test]
fn a_field_of_the_other_transport_is_refused_by_name() {
    for (config, change, named) in [
        (stdio("npx", &[]), r#"{"url":"https://h/"}"#, "url"),
        (
            stdio("npx", &[]),
            r#"{"sessionId":null,"session":null}"#,
            "sessionId",
        ),
        (remote(), r#"{"command":"x","args":[]}"#, "command, args"),
        (remote(), r#"{"replicas":"one"}"#, "replicas"),
    ] {
        let failure = parse(change).apply_to(&config).expect_err(change);
        assert!(failure.message.contains(named), "{failure}");
    }
}

#[test]
fn a_program_without_a_name_or_with_nul_is_refused() {
    for command in ["", "  ", "a\0b"] {
        assert!(stdio(command, &[]).check().is_err(), "{command:?}");
    }
    assert!(stdio("npx", &["a\0"]).check().is_err());
    assert!(stdio("npx", &["a"]).check().is_ok());
}

#[test]
fn an_environment_variable_needs_a_name_without_equals_sign() {
    for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0"), ("A\0", "x")] {
        let config = ServerConfig::new(Transport::Stdio {
            command: "npx".into(),
            args: vec![],
            env: [(name.to_owned(), value.to_owned())].into(),
        });
        assert!(config.check().is_err(), "{name:?}={value:?}");
    }
}

#[test]
fn a_server_behind_a_url_has_no_replicas_and_no_interaction() {
    let replicas = ServerConfig {
        replicas: Replicas::Each,
        ..remote()
    };
    let interaction = ServerConfig {
        interaction: Interaction::Exclusive,
        ..remote()
    };
    for (config, field) in [(replicas, "replicas"), (interaction, "interaction")] {
        let failure = config.check().expect_err(field);
        assert!(failure.message.contains(field), "{failure}");
    }
    assert!(remote().check().is_ok());
}

#[test]
fn an_empty_list_of_secret_names_means_all_secrets() {
    let token: SecretName = "TOKEN".parse().expect("a name");
    let mut config = stdio("npx", &[]);
    assert!(config.takes(&token));
    config.secret_names = vec!["OTHER".parse().expect("a name")];
    assert!(!config.takes(&token));
}

#[test]
fn a_running_server_suits_another_start_limit_and_other_lists_but_no_other_process() {
    let running = stdio("npx", &[]);
    let mut other = running.clone();
    other.startup_timeout = Some(1);
    other.reset_timeout_on_progress = true;
    other.hide_secret_arguments = false;
    assert!(running.runs_on_with(&other));
    for change in [
        r#"{"command":"uvx"}"#,
        r#"{"toolTimeout":1}"#,
        r#"{"interaction":"exclusive"}"#,
        r#"{"replicas":"each"}"#,
    ] {
        let change: ServerChange = serde_json::from_str(change).expect("a change");
        let changed = change.apply_to(&running).expect("a configuration");
        assert!(!running.runs_on_with(&changed), "{change:?}");
    }
}
