//! The real services: started on ports of their own, and gone with the tests.

pub mod mongod;
pub mod nats;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("its address")
        .port()
}

/// Where `tests/services/install` has put a program.
pub fn installed(path: &str) -> String {
    format!("{}/target/services/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Starts a program that ends when this process does, however that ends, and its folder with it: a shell
/// waits for the end of its standard input, which only we hold open.
pub fn spawn(dir: &Path, program: &str, args: &[String]) -> Service {
    let script = r#"dir=$1; shift; "$@" </dev/null >"$dir.log" 2>&1 & child=$!
        read word; kill -9 $child; wait; [ "$word" = keep ] || rm -rf "$dir" "$dir.log""#;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(dir)
        .arg(program)
        .args(args)
        .process_group(0)
        .stderr(Stdio::null());
    let shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell");
    Service(shell)
}

/// A running program. Dropped, it is killed.
pub struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // The shell kills it, whatever state it is in.
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"keep\n");
        }
        let _ = self.0.wait();
    }
}
