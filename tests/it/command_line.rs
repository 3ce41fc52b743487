//! The commands that are clients of the API, and the keys that the program accepts at start.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::{App, fixture, python, refused};
use crate::process::{command, owned};

/// Runs a command of the program against a URL.
pub fn run(dir: &Path, url: &str, words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = command(dir, &owned(env));
    command.args(words).args(["--url", url]);
    command.output().expect("the program runs")
}

#[test]
fn a_reader_that_closes_the_pipe_ends_no_command() {
    let app = App::embedded();
    for words in [&["servers"][..], &["dead", "list"], &["import", "--help"]] {
        let mut command = command(app.dir.path(), &[]);
        command.args(words);
        if words != ["import", "--help"] {
            command.args(["--url", &app.url]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the program ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "", "{words:?}");
        assert!(output.status.success(), "{words:?}");
    }
}

/// A TLS proxy in front of an API. Dropped, it is killed.
struct TlsProxy {
    child: Child,
    port: u16,
}

impl TlsProxy {
    fn start(folder: &Path, api: &str) -> Self {
        let port = api.rsplit_once(':').expect("a port").1;
        let mut child = Command::new(python())
            .arg(fixture("tls_proxy.py"))
            .args(["server.pem", "server.key", port])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        Self {
            child,
            port: line.trim().parse().expect("a port"),
        }
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates two certificate authorities, and a certificate of the first one for `localhost`.
fn create_certificates(folder: &Path) {
    let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let server = "-CA ca.pem -CAkey ca.key -keyout server.key -out server.pem -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    for rest in [
        "-keyout ca.key -out ca.pem -subj /CN=ca",
        "-keyout other.key -out other.pem -subj /CN=other",
        server,
    ] {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(folder).args(key.split(' '));
        let output = openssl.args(rest.split_whitespace()).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "{rest}: {output:?}");
    }
}

#[test]
fn a_command_speaks_https_and_checks_the_certificate() {
    let app = App::embedded();
    let folder = TempDir::new().expect("a folder");
    create_certificates(folder.path());
    let proxy = TlsProxy::start(folder.path(), &app.url);
    let servers = |host: &str, ca: &str| {
        let ca = folder.path().join(ca).display().to_string();
        let url = format!("https://{host}:{}", proxy.port);
        run(
            app.dir.path(),
            &url,
            &["servers"],
            &[("SSL_CERT_FILE", &ca)],
        )
    };
    let trusted = servers("localhost", "ca.pem");
    assert!(trusted.status.success(), "{trusted:?}");
    let stdout = String::from_utf8_lossy(&trusted.stdout);
    assert!(stdout.contains("No server is registered"), "{stdout}");
    for (host, ca) in [("localhost", "other.pem"), ("127.0.0.1", "ca.pem")] {
        let refused = servers(host, ca);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("certificate"), "{stderr}");
    }
}

#[test]
fn a_url_that_cannot_be_used_is_an_error_with_the_remedy() {
    let folder = TempDir::new().expect("a folder");
    for (url, wanted) in [
        ("ftp://h", "does not begin with http:// or https://"),
        (
            "http://127.0.0.1:1",
            "check that `mcp-api serve` runs there",
        ),
        ("http:// ", "is not a URL"),
    ] {
        let output = run(folder.path(), url, &["servers"], &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(wanted),
            "{stderr}"
        );
    }
}

#[tokio::test]
async fn a_short_key_is_refused_for_new_data_and_accepted_for_existing_data() {
    let folder = TempDir::new().expect("a folder");
    let error = refused(folder.path(), &[("SECRETS_KEY", "a")]);
    assert!(error.contains("openssl rand -hex 32"), "{error}");
    assert!(!folder.path().join("data/secrets.key").exists());
    // Existing data: the earlier key contains a comma, and the new key is short.
    let mut app = App::embedded_with(&[("SECRETS_KEY", "a long passphrase, with a comma")]);
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "message", "kept").await;
    app.kill();
    app.restart_with(&[
        ("SECRETS_KEY", "short"),
        ("SECRETS_KEYS_OLD", r#"["a long passphrase, with a comma"]"#),
    ]);
    let called = app.call("ana", "fixture", "echo", serde_json::json!({}));
    assert_eq!(called.await.ok()["data"]["content"], "kept");
    assert!(app.log().contains("SECRETS_KEY is short enough to guess"));
}

#[test]
fn a_key_file_that_other_users_can_read_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a folder");
    let file = data.join("secrets.key");
    fs::write(&file, "ab".repeat(32)).expect("a key file");
    let set_mode = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    for mode in [0o644, 0o604, 0o620] {
        set_mode(mode);
        let error = refused(folder.path(), &[]);
        assert!(error.contains("chmod 600"), "{error}");
    }
}
