//! Starts real services on free ports. They end with the tests.

pub mod mongod;
pub mod nats;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns a port for a program that must be told its port. No other call returns it, and the system gives no such port to
/// programs that ask for any port, so no other test takes it before the program listens.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 500;
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port")
}

/// Returns the path of a program that `tests/services/install` has installed.
pub fn installed(path: &str) -> String {
    format!("{}/target/services/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Starts a program that ends with this process, also when this process is killed: a shell kills the program and removes
/// its folder when its standard input ends, and only this process holds that open.
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

/// A running program. Dropping it kills the program.
pub struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // The shell kills the program in any state.
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"keep\n");
        }
        let _ = self.0.wait();
    }
}
