//! The guard starter and its guards: their memory, their descriptors, and servers after the end of a starter.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{App, fixture, python};
use crate::processes::{
    assert_no_process_left, children_of, is_alive, name_of, parent_of, private_memory, signal,
    zombies_of,
};
use crate::wait::wait_until;

/// Returns the guard starters of a program.
fn starters_of(program: u32) -> Vec<u32> {
    children_of(program)
        .filter(|pid| is_alive(*pid) && name_of(*pid).as_deref() == Some("guard-starter"))
        .collect()
}

/// Returns the guard starter of a program that has started a server.
pub(super) fn starter_of(program: u32) -> u32 {
    match starters_of(program)[..] {
        [starter] => starter,
        ref starters => panic!("a program has one guard starter, not {starters:?}"),
    }
}

/// Returns the targets of the descriptors of a process.
fn descriptors(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
    let links = entries.map(|entry| fs::read_link(entry.expect("a descriptor").path()));
    links.map(|link| link.expect("a target")).collect()
}

async fn register_many(app: &App, servers: usize) {
    let names: Vec<_> = (0..servers)
        .map(|number| format!("server-{number}"))
        .collect();
    let registered = names.iter().map(|name| app.register_fixture(name));
    for answer in futures::future::join_all(registered).await {
        answer.ok();
    }
}

#[tokio::test]
async fn guards_share_their_memory() {
    const SERVERS: usize = 20;
    const KIB: u64 = 1 << 10;
    let app = App::embedded();
    register_many(&app, SERVERS).await;
    for number in 0..SERVERS {
        let guard = parent_of(app.pid_of(&format!("server-{number}")).await);
        assert_eq!(parent_of(guard), app.pid());
        let private = private_memory(guard);
        assert!(private <= 300 * KIB, "a guard has {} KiB", private / KIB);
    }
}

#[tokio::test]
async fn a_starter_keeps_no_descriptor_of_a_child() {
    let app = App::embedded();
    app.register_fixture("first").await.ok();
    let starter = starter_of(app.pid());
    let before = descriptors(starter);
    register_many(&app, 10).await;
    assert_eq!(starter_of(app.pid()), starter);
    assert_eq!(descriptors(starter), before);
    let guard = parent_of(app.pid_of("first").await);
    for target in descriptors(guard) {
        let is_socket = target.to_string_lossy().starts_with("socket:");
        assert!(!is_socket, "a guard has the socket of its starter");
    }
}

#[tokio::test]
async fn servers_outlive_a_killed_starter_and_the_next_server_starts_another() {
    let app = App::embedded();
    app.register_fixture("first").await.ok();
    let pid = app.pid_of("first").await;
    let starter = starter_of(app.pid());
    signal(starter, "KILL");
    wait_until("the starter ended", async || !is_alive(starter)).await;
    assert_eq!(app.pid_of("first").await, pid);
    app.register_fixture("second").await.ok();
    assert_ne!(starter_of(app.pid()), starter);
    assert!(zombies_of(app.pid()).is_empty(), "the starter was reaped");
    assert_eq!(app.pid_of("first").await, pid);
    app.pid_of("second").await;
}

#[tokio::test]
async fn a_starter_that_hangs_is_replaced() {
    // The lease is renewed while the start waits for the starter, so the start goes on.
    let app = App::embedded_with(&[("LEASE_TTL", "4s")]);
    app.register_fixture("first").await.ok();
    let pid = app.pid_of("first").await;
    let starter = starter_of(app.pid());
    signal(starter, "STOP");
    let (registered, ()) = tokio::join!(app.register_fixture("second"), async {
        // The calls of other servers do not wait for the starter.
        assert_eq!(app.pid_of("first").await, pid);
    });
    registered.ok();
    assert_ne!(starter_of(app.pid()), starter);
    assert!(!is_alive(starter));
    assert_eq!(app.pid_of("first").await, pid);
    app.pid_of("second").await;
}

#[tokio::test]
async fn a_killed_program_leaves_no_starter() {
    for is_stopped in [false, true] {
        let mut app = App::embedded();
        register_many(&app, 3).await;
        let starter = starter_of(app.pid());
        if is_stopped {
            signal(starter, "STOP");
        }
        app.kill();
        wait_until("the starter ended", async || !is_alive(starter)).await;
        assert_no_process_left(app.dir.path());
    }
}

/// Returns the fields of a server whose command line ends with arguments that it does not read.
fn server_with_arguments(count: usize, size: usize) -> Value {
    let unread = std::iter::repeat_n("x".repeat(size), count);
    let args: Vec<_> = ["-u".to_owned(), fixture("server.py")]
        .into_iter()
        .chain(unread)
        .collect();
    json!({ "name": "wordy", "command": python(), "args": args })
}

#[tokio::test]
async fn a_long_command_line_reaches_the_server() {
    let app = App::embedded();
    // The kernel allows 128 KiB for one argument.
    let body = server_with_arguments(10, 100 << 10);
    app.post("/mcp/servers", body).await.ok();
    let pid = app.pid_of("wordy").await;
    let length = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
        line.len()
    };
    assert!(length(pid) > 1_000 << 10, "{}", length(pid));
    let guard = parent_of(pid);
    assert!(length(guard) < 100, "a guard does not show the arguments");
}

#[tokio::test]
async fn the_failure_names_a_command_line_that_is_too_long() {
    let app = App::embedded();
    let body = server_with_arguments(1, 129 << 10);
    let answer = app.post("/mcp/servers", body).await.ok();
    assert_eq!(answer["server"]["status"], "error");
    let logs = app.server("wordy").await["logs"].to_string();
    assert!(logs.contains("Argument list too long"), "{logs}");
}
