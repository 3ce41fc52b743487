//! The commands `token`, `whoami`, `secret`, `connections` and `disconnect`, and the way of the token of a command.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use crate::command_line::run;
use crate::harness::App;
use crate::process::{binary, command, owned};

/// Runs a command that succeeds, and returns its standard output.
fn succeed(app: &App, words: &[&str], env: &[(&str, &str)]) -> String {
    let output = run(app.dir.path(), &app.url, words, env);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a command that fails, and returns its standard error.
fn fail(app: &App, words: &[&str], env: &[(&str, &str)]) -> String {
    let output = run(app.dir.path(), &app.url, words, env);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Runs a command with a text on standard input.
fn run_with_input(app: &App, words: &[&str], input: &[u8]) -> Output {
    let mut command = command(app.dir.path(), &[]);
    let mut child = command
        .args(words)
        .args(["--url", &app.url])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("the input is read");
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

#[tokio::test]
async fn a_token_is_made_listed_used_and_revoked() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let create = "token create ana --scope tools --server fixture --expires 1h --label laptop";
    let create: Vec<_> = create.split(' ').collect();
    let created = run(app.dir.path(), &app.url, &create, &[]);
    let stdout = String::from_utf8(created.stdout).expect("UTF-8");
    let stderr = String::from_utf8(created.stderr).expect("UTF-8");
    assert!(created.status.success(), "{stderr}");
    let token = stdout.strip_suffix('\n').expect("one line");
    assert!(
        token.starts_with("mcpu_") && !token.contains('\n'),
        "{stdout}"
    );
    assert!(!stderr.contains(token), "{stderr}");
    let id = stderr.split(' ').nth(1).expect("the id of the token");

    // ADMIN_TOKEN is wrong here, so a success proves that MCP_API_TOKEN comes first.
    let env = [
        ("MCP_API_TOKEN", token),
        ("ADMIN_TOKEN", "0123456789abcdef"),
    ];
    let caller = succeed(&app, &["whoami"], &env);
    for line in [
        "user     ana",
        "kind     token",
        "scopes   tools",
        "servers  fixture",
    ] {
        assert!(
            caller.lines().any(|found| found == line),
            "{line}: {caller}"
        );
    }
    // A call without --user acts for the caller.
    let args = r#"{"message": "hi"}"#;
    assert_eq!(
        succeed(&app, &["call", "fixture", "echo", args], &env),
        "hi\n"
    );

    let list = succeed(&app, &["token", "list", "--user", "ana"], &[]);
    assert!(
        list.starts_with(&format!("{id}  ana  scopes: tools  ")),
        "{list}"
    );
    assert!(
        list.ends_with("  laptop\n") && !list.contains(token),
        "{list}"
    );
    assert_eq!(succeed(&app, &["token", "list", "--user", "ben"], &[]), "");
    succeed(&app, &["token", "revoke", id], &[]);
    let list = succeed(&app, &["token", "list"], &[]);
    assert!(list.contains("  revoked 20"), "{list}");
    let error = fail(&app, &["whoami"], &env);
    assert!(!error.contains(token), "{error}");
    fail(&app, &["token", "revoke", "../servers"], &[]);
}

#[test]
fn a_token_that_cannot_be_printed_is_an_error_that_names_it() {
    let app = App::embedded();
    let mut command = command(app.dir.path(), &[]);
    let full = File::options().write(true).open("/dev/full");
    command.args(["token", "create", "ana", "--url", &app.url]);
    let output = command.stdout(full.expect("a device")).output();
    let output = output.expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let id = stderr.split(['`', ' ']).rfind(|word| word.len() == 36);
    let id = id.expect("the id of the token");
    succeed(&app, &["token", "revoke", id], &[]);
}

#[tokio::test]
async fn a_secret_comes_from_standard_input() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let set = ["secret", "set", "fixture", "message", "--user", "ana"];
    for (input, value) in [
        (&b"one\n"[..], "one"),
        (b"two", "two"),
        (b"a\nb\n\n", "a\nb\n"),
    ] {
        let output = run_with_input(&app, &set, input);
        assert!(output.status.success(), "{output:?}");
        let call = ["call", "fixture", "echo", "--user", "ana"];
        assert_eq!(succeed(&app, &call, &[]), format!("{value}\n"));
    }
    for input in [&b"\n"[..], b"hidden\xff"] {
        let output = run_with_input(&app, &set, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("the value of the secret is"), "{stderr}");
        assert!(!stderr.contains("hidden"), "{stderr}");
    }
    let delete = ["secret", "delete", "fixture", "message", "--user", "ana"];
    succeed(&app, &delete, &[]);
    fail(&app, &delete, &[]);
}

#[tokio::test]
async fn the_connections_of_a_user_are_listed_and_ended() {
    let app = App::embedded();
    let none = succeed(&app, &["connections"], &[]);
    assert_eq!(none, "");
    let credentials = json!([
        { "name": "KEY", "required": true, "description": "A personal key" },
        { "name": "ORG", "owner": "shared" },
    ]);
    let fields = json!({ "credentials": credentials });
    app.register("fixture", fields).await.ok();
    for words in [
        &["secret", "set", "fixture", "KEY", "--user", "ana"][..],
        &["secret", "set", "fixture", "ORG", "--shared"],
    ] {
        let output = run_with_input(&app, words, b"planted\n");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
    let list = |user| succeed(&app, &["connections", "--user", user], &[]);
    let of_ana = list("ana");
    let lines: Vec<_> = of_ana.lines().collect();
    assert!(lines[0].starts_with("fixture  KEY  argument           set 20"));
    assert!(lines[0].ends_with("  A personal key"), "{of_ana}");
    assert!(lines[1].starts_with("fixture  ORG  argument (shared)  set 20"));
    assert!(!of_ana.contains("planted"), "{of_ana}");
    assert!(list("ben").contains("missing, required"));

    succeed(&app, &["disconnect", "fixture", "--user", "ana"], &[]);
    assert!(list("ana").contains("missing, required"));
    succeed(
        &app,
        &["secret", "delete", "fixture", "ORG", "--shared"],
        &[],
    );
    assert!(!list("ana").contains("set 20"));
    let error = fail(&app, &["disconnect", "none"], &[]);
    assert!(error.contains("none"), "{error}");
    let both = [
        "secret", "delete", "fixture", "ORG", "--shared", "--user", "ana",
    ];
    let output = run(app.dir.path(), &app.url, &both, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// Sets a secret in a pseudo-terminal, types a text at the prompt, and returns the shown text. Then the terminal
/// shows the exit code and the settings of the terminal.
fn type_at_prompt(app: &App, typed: &[u8]) -> String {
    let set = format!(
        "trap : INT; {} secret set fixture message --url {}; echo code=$?; stty -a",
        binary(),
        app.url
    );
    let mut script = Command::new("script");
    let mut child = script
        .args(["--quiet", "--flush", "--command", &set, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .current_dir(app.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut shown = Vec::new();
    let prompt = b"Value of message for fixture: ";
    while !shown.ends_with(prompt) {
        let mut byte = [0];
        let read = stdout.read(&mut byte).expect("the terminal");
        assert_eq!(read, 1, "{}", String::from_utf8_lossy(&shown));
        shown.extend(byte);
    }
    stdin.write_all(typed).expect("the terminal");
    stdout.read_to_end(&mut shown).expect("the terminal");
    drop(stdin);
    child.wait().expect("script ends");
    String::from_utf8(shown).expect("UTF-8")
}

#[tokio::test]
async fn a_prompt_shows_no_value_and_restores_the_terminal() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let shown = type_at_prompt(&app, b"typed-value\n");
    assert!(shown.contains("code=0"), "{shown}");
    assert!(!shown.contains("typed-value"), "{shown}");
    assert!(
        shown.split_whitespace().any(|word| word == "echo"),
        "{shown}"
    );
    assert_eq!(
        succeed(&app, &["call", "fixture", "echo"], &[]),
        "typed-value\n"
    );
    // Ctrl-C
    let shown = type_at_prompt(&app, b"half\x03");
    assert!(shown.contains("code=130"), "{shown}");
    assert!(!shown.contains("half"), "{shown}");
    assert!(
        shown.split_whitespace().any(|word| word == "echo"),
        "{shown}"
    );
}

#[test]
fn a_command_follows_no_redirect_with_its_token() {
    let folder = TempDir::new().expect("a folder");
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = listen();
    let api = listen();
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("bound"));
    let location = url(&other);
    let api_url = url(&api);
    let answer = thread::spawn(move || {
        let (mut stream, _) = api.accept().expect("a connection");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).expect("a request");
        let head = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}/whoami\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        String::from_utf8_lossy(&request[..read]).to_ascii_lowercase()
    });
    let env = [("MCP_API_TOKEN", "mcpu_planted")];
    let output = run(folder.path(), &api_url, &["whoami"], &env);
    let request = answer.join().expect("a request");
    assert!(
        request.contains("authorization: bearer mcpu_planted"),
        "{request}"
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("307") && !stderr.contains("planted"),
        "{stderr}"
    );
    other.set_nonblocking(true).expect("non-blocking");
    let error = other.accept().expect_err("no connection");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_token_is_no_argument_of_any_command() {
    let folder = TempDir::new().expect("a folder");
    let help = |words: &[&str]| {
        let output = command(Path::new(folder.path()), &owned(&[]))
            .args(words)
            .arg("--help")
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for words in [&["whoami"][..], &["token", "create"], &["secret", "set"]] {
        let text = help(words);
        assert!(
            !text.contains("--token") && !text.contains("--value"),
            "{text}"
        );
    }
}
