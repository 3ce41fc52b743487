//! Runs `mcp-api demo` as a new user does: with npm, a folder and nothing else.

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
use crate::processes::{assert_no_process_left, signal};

/// The longest wait for npm, which depends on the network.
const INSTALL: Duration = Duration::from_secs(240);

#[tokio::test]
async fn the_demo_shows_every_step_with_its_result() {
    let dir = TempDir::new().expect("a folder");
    let mut first = Demo::start(
        dir.path(),
        &[("PORT", "0"), ("SECRETS_KEY", "of another deployment")],
    );
    let output = first.read_until("/docs").await;
    for said in [
        "installed and started in",
        "connected",
        "ana receives: Echo: only-ana",
        "ben receives: Echo: only-ben",
        "cem receives: Echo: hello",
        "search has no process yet",
        "in a process of ana, the API received key-of-ana-",
        "in a process of ben, the API received key-of-ben-",
        "needs PERPLEXITY_API_KEY; user cem has to set it",
    ] {
        assert!(output.contains(said), "{said} is not in\n{output}");
    }
    assert!(
        output.contains("secret.set") && output.contains("found 0 times"),
        "{output}"
    );
    let seen = output
        .lines()
        .find(|line| line.trim_start().starts_with("it sees"))
        .expect("what the server sees");
    assert!(
        seen.contains("PATH") && !seen.contains("SECRETS_KEY") && !seen.contains("DATA_DIR"),
        "{seen}"
    );
    assert!(
        !output.contains('\x1b'),
        "escape codes in what is no terminal:\n{output}"
    );

    // The commands that the demo prints at its end work.
    let said = shell(&output, " call everything ").await;
    assert_eq!(said, "Echo: only-ana-knows-this\n");
    let said = shell(&output, " servers").await;
    assert!(
        said.contains("everything") && said.contains("connected"),
        "{said}"
    );
    first.ends_well().await;

    // A second run on the same folder, with a port in use and a proxy that must not see loopback requests.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let mut again = Demo::start(
        dir.path(),
        &[("PORT", &port), ("http_proxy", "http://127.0.0.1:9")],
    );
    let output = again.read_until("/docs").await;
    for said in [
        "the package is installed already",
        &format!("port {port} is in use"),
        "is connected and has",
        "ana receives: Echo: only-ana",
        "in a process of ben, the API received key-of-ben-",
    ] {
        assert!(output.contains(said), "{said} is not in\n{output}");
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
    assert_no_process_left(dir.path());
}

#[tokio::test]
async fn without_npm_the_demo_names_the_reason() {
    let dir = TempDir::new().expect("a folder");
    let env = [
        ("PATH".to_owned(), dir.path().display().to_string()),
        ("PORT".to_owned(), "0".to_owned()),
    ];
    let ended = run_to_end(Command::from(command(dir.path(), &env)).arg("demo")).await;
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
        // npm needs the certificates of this machine too.
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

    /// Returns the output up to the first line that contains a text.
    async fn read_until(&mut self, wanted: &str) -> String {
        let mut output = String::new();
        let reading = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                output += &line;
                output.push('\n');
                if line.contains(wanted) {
                    return true;
                }
            }
            false
        };
        let found = timeout(INSTALL, reading).await.expect("the demo goes on");
        assert!(found, "the demo ended before {wanted}:\n{output}");
        output
    }

    /// SIGTERM ends the demo with exit code 0 and leaves no process.
    async fn ends_well(mut self) {
        signal(self.child.id().expect("a process"), "TERM");
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("the demo ends")
            .expect("a status");
        assert_eq!(status.code(), Some(0));
        assert_no_process_left(self.dir);
    }
}

/// Runs the last printed line that contains a text, in a shell.
async fn shell(output: &str, part: &str) -> String {
    let line = output
        .lines()
        .rfind(|line| line.contains(part))
        .expect(part);
    let ended = run_to_end(Command::new("sh").args(["-c", line])).await;
    assert!(
        ended.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    String::from_utf8(ended.stdout).expect("text")
}

async fn run_to_end(command: &mut Command) -> Output {
    timeout(PATIENCE, command.kill_on_drop(true).output())
        .await
        .expect("it ends")
        .expect("it runs")
}
