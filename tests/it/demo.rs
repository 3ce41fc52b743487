//! `mcp-api demo`, as somebody new runs it: with npm, a folder and nothing else.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::harness::PATIENCE;
use crate::process::command;
use crate::processes::{assert_nobody_left, signal};

/// npm takes as long as the network does.
const INSTALL: Duration = Duration::from_secs(240);

#[tokio::test]
async fn the_demo_does_what_it_says() {
    let dir = TempDir::new().expect("a folder");
    let mut first = Demo::start(
        dir.path(),
        &[("PORT", "0"), ("SECRETS_KEY", "of another deployment")],
    );
    let told = first.read_until("/docs").await;
    for said in [
        "installed and started in",
        "connected",
        "ana receives: Echo: only-ana",
        "ben receives: Echo: only-ben",
        "cem receives: Echo: hello",
    ] {
        assert!(told.contains(said), "{said} is not in\n{told}");
    }
    assert!(
        told.contains("secret.set") && told.contains("found 0 times"),
        "{told}"
    );
    let seen = told
        .lines()
        .find(|line| line.contains("it sees"))
        .expect("what the server sees");
    assert!(
        seen.contains("PATH") && !seen.contains("SECRETS_KEY") && !seen.contains("DATA_DIR"),
        "{seen}"
    );
    assert!(
        !told.contains('\x1b'),
        "escape codes in what is no terminal:\n{told}"
    );

    // What it tells to try next works as it stands there.
    let said = shell(&told, " call everything ").await;
    assert_eq!(said, "Echo: only-ana-knows-this\n");
    let said = shell(&told, " servers").await;
    assert!(
        said.contains("everything") && said.contains("connected"),
        "{said}"
    );
    first.ends_well().await;

    // Again, on the same folder: with the port taken, and with a proxy that is of no use on loopback.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let mut again = Demo::start(
        dir.path(),
        &[("PORT", &port), ("http_proxy", "http://127.0.0.1:9")],
    );
    let told = again.read_until("/docs").await;
    for said in [
        "the package is installed already",
        &format!("port {port} is in use"),
        "is connected and has",
        "ana receives: Echo: only-ana",
    ] {
        assert!(told.contains(said), "{said} is not in\n{told}");
    }
    again.ends_well().await;
}

#[tokio::test]
async fn the_demo_can_be_stopped_while_it_installs() {
    let dir = TempDir::new().expect("a folder");
    let mut demo = Demo::start(dir.path(), &[("PORT", "0")]);
    demo.read_until("/packages/install").await;
    demo.ends_well().await;

    let mut demo = Demo::start(dir.path(), &[("PORT", "0")]);
    demo.read_until("/packages/install").await;
    demo.child.kill().await.expect("killed");
    assert_nobody_left(dir.path());
}

#[tokio::test]
async fn without_npm_the_demo_says_so() {
    let dir = TempDir::new().expect("a folder");
    let env = [
        ("PATH".to_owned(), dir.path().display().to_string()),
        ("PORT".to_owned(), "0".to_owned()),
    ];
    let ended = output(Command::from(command(dir.path(), &env)).arg("demo")).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("mcp-api: npm was not found") && said.lines().count() < 4,
        "{said}"
    );
}

struct Demo<'a> {
    dir: &'a Path,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl<'a> Demo<'a> {
    fn start(dir: &'a Path, env: &[(&str, &str)]) -> Self {
        let env: Vec<_> = env
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let mut command = Command::from(command(dir, &env));
        // Where this machine's certificates are, npm is to know it too.
        command.envs(
            std::env::var_os("NODE_EXTRA_CA_CERTS").map(|path| ("NODE_EXTRA_CA_CERTS", path)),
        );
        let mut child = command
            .arg("demo")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { dir, child, lines }
    }

    /// What it says up to the first line with this in it.
    async fn read_until(&mut self, wanted: &str) -> String {
        let mut told = String::new();
        let reading = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                told += &line;
                told.push('\n');
                if line.contains(wanted) {
                    return true;
                }
            }
            false
        };
        let found = timeout(INSTALL, reading).await.expect("the demo goes on");
        assert!(found, "the demo ended before {wanted}:\n{told}");
        told
    }

    /// SIGTERM ends it with 0, and nobody is left.
    async fn ends_well(mut self) {
        signal(self.child.id().expect("a process"), "TERM");
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("the demo ends")
            .expect("a status");
        assert_eq!(status.code(), Some(0));
        assert_nobody_left(self.dir);
    }
}

/// Runs the last line that has this in it, as a shell would.
async fn shell(told: &str, part: &str) -> String {
    let line = told.lines().rfind(|line| line.contains(part)).expect(part);
    let ended = output(Command::new("sh").args(["-c", line])).await;
    assert!(
        ended.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    String::from_utf8(ended.stdout).expect("text")
}

async fn output(command: &mut Command) -> Output {
    timeout(PATIENCE, command.kill_on_drop(true).output())
        .await
        .expect("it ends")
        .expect("it runs")
}
