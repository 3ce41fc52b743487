//! No child process outlives its program, its guard or its server.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::guards::starter_of;
use crate::harness::{App, python};
use crate::processes::{assert_no_process_left, is_alive, parent_of, signal, zombies_of};
use crate::wait::wait_until;

#[tokio::test]
async fn the_processes_of_a_killed_program_end() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let server = app.pid_of("fixture").await;
    // The grandchild has left the process group and the session.
    let grandchild: u32 = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    assert!(is_alive(server) && is_alive(grandchild));
    app.kill();
    wait_until("all ended", async || {
        !is_alive(server) && !is_alive(grandchild)
    })
    .await;
    assert_no_process_left(app.dir.path());
}

#[tokio::test]
async fn a_crash_ends_the_grandchildren_too() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let grandchild: u32 = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    app.call("default", "fixture", "crash", json!({}))
        .await
        .fails(502, "upstream_error");
    wait_until("the grandchild ended", async || !is_alive(grandchild)).await;
    app.pid_of("fixture").await;
}

#[tokio::test]
async fn a_stopped_program_loses_its_children_and_recovers() {
    let app = App::embedded_with(&[("LEASE_TTL", "2s")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let grandchild: u32 = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    signal(app.pid(), "STOP");
    wait_until("the children ended", async || {
        !is_alive(pid) && !is_alive(grandchild)
    })
    .await;
    signal(app.pid(), "CONT");
    let noticed =
        |logs: String| logs.contains("ended:") || logs.contains("the lease could not be renewed");
    app.until("/mcp/servers/fixture", |body| {
        noticed(body["server"]["logs"].to_string())
    })
    .await;
    assert_eq!(
        app.text("fixture", "echo", json!({ "message": "healed" }))
            .await,
        "healed"
    );
    assert_ne!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn a_killed_guard_ends_its_child_and_the_server_restarts() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let grandchild = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    signal(parent_of(pid), "KILL");
    wait_until("the child ended", async || !is_alive(pid)).await;
    wait_until(
        "the grandchild ended, though it had left the group",
        async || !is_alive(grandchild),
    )
    .await;
    // Before the program has noticed the end, a new call would count as started.
    let noticed =
        |logs: String| logs.contains("ended:") || logs.contains("the lease could not be renewed");
    app.until("/mcp/servers/fixture", |body| {
        noticed(body["server"]["logs"].to_string())
    })
    .await;
    assert_ne!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn a_stopped_guard_is_killed_with_all_that_its_child_has_started() {
    let app = App::embedded();
    app.register("stubborn", json!({ "env": { "FIXTURE_STOP": "never" } }))
        .await
        .ok();
    let pid = app.pid_of("stubborn").await;
    let grandchild: u32 = app
        .text("stubborn", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    signal(parent_of(pid), "STOP");
    app.delete("/mcp/servers/stubborn").await.ok();
    wait_until("the child and the grandchild ended", async || {
        !is_alive(pid) && !is_alive(grandchild)
    })
    .await;
    wait_until("no zombies", async || zombies_of(app.pid()).is_empty()).await;
}

#[tokio::test]
async fn a_chain_of_forks_ends_with_its_server() {
    let app = App::embedded();
    let mark = format!("chain-{}", app.pid());
    let file = app.dir.path().join(&mark);
    let begun = app.dir.path().join("begun");
    // Each process only starts the next one and ends. A guard that looks for processes is slower than the chain. The chain
    // costs a processor, so it ends after ten seconds.
    let chain = format!(
        "import os, time; end = time.monotonic() + 10; os.mkdir(\"{}\")\n\
         while time.monotonic() < end and not os.fork(): pass\nos._exit(0)",
        begun.display()
    );
    let script = format!("exec {} -c '{chain}' \"$0\"\n", python());
    run_detached(&app, &file, &script).await;
    wait_until("the chain begins", async || begun.exists()).await;
    let deleted = app.delete("/mcp/servers/fixture").await.ok();
    let is_running = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .any(|line| String::from_utf8_lossy(&line).contains(&mark))
    };
    // The kernel kills the chain at once, where it has a group. Elsewhere the chain may fork faster than the worker kills.
    let is_named = deleted["processesLeft"].as_u64() > Some(0) && deleted["warning"].is_string();
    assert!(
        !(is_named && can_kill_groups()),
        "the guard used no group: {deleted}"
    );
    assert!(
        is_named || !is_running(),
        "the answer hides the chain: {deleted}"
    );
    wait_until("the chain ended", async || !is_running()).await;
    wait_until("no zombies", async || zombies_of(app.pid()).is_empty()).await;
}

#[tokio::test]
async fn groups_that_a_child_creates_in_its_group_end_with_its_server() {
    let Some(groups) = own_group().filter(|_| can_kill_groups()) else {
        return;
    };
    let app = App::embedded();
    let file = app.dir.path().join("script");
    let begun = app.dir.path().join("begun");
    // The process moves itself into a group inside the group of its server.
    let script = format!(
        "own=$(sed -n 's/^0:://p' /proc/self/cgroup)\n\
         below=\"{}$own/below\"\nmkdir \"$below\" && echo $$ > \"$below/cgroup.procs\"\n\
         echo \"$below\" > {}\nexec sleep 600\n",
        groups.mount.display(),
        begun.display()
    );
    run_detached(&app, &file, &script).await;
    wait_until("the process has a group", async || {
        fs::read_to_string(&begun).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    let below = fs::read_to_string(&begun).expect("a file");
    let below = Path::new(below.trim());
    assert!(below.is_dir(), "{}", below.display());
    app.delete("/mcp/servers/fixture").await.ok();
    wait_until("the groups are gone", async || {
        !below.parent().expect("a group").exists()
    })
    .await;
}

#[tokio::test]
async fn processes_of_a_program_that_was_killed_with_its_guards_end_at_the_next_start() {
    if !can_kill_groups() {
        return;
    }
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let grandchild = app.text("fixture", "fork", json!({})).await;
    let grandchild: u32 = grandchild.parse().expect("a pid");
    let server = app.pid_of("fixture").await;
    let guard = parent_of(server);
    let killed = [guard, starter_of(app.pid()), app.pid()];
    // All are stopped first, so that none of them acts on the end of another. Children are killed before their parents,
    // because the kernel continues a stopped process whose parent ends.
    for name in ["STOP", "KILL"] {
        for pid in killed {
            signal(pid, name);
        }
    }
    wait_until("the server ended with its guard", async || {
        !is_alive(server)
    })
    .await;
    assert!(
        is_alive(grandchild),
        "a process that was killed ended the grandchild"
    );
    app.restart();
    wait_until("the grandchild ended", async || !is_alive(grandchild)).await;
}

/// Makes a child run a script in a session of its own.
async fn run_detached(app: &App, file: &Path, script: &str) {
    fs::write(file, script).expect("a script");
    app.register_fixture("fixture").await.ok();
    let args = json!({ "script": file });
    app.call("default", "fixture", "run_detached", args)
        .await
        .ok();
}

/// Returns whether a process of this machine may create a group whose processes the kernel kills.
fn can_kill_groups() -> bool {
    let Some(groups) = own_group() else {
        return false;
    };
    let name = format!("test-{}", uuid::Uuid::new_v4());
    let group = groups.mount.join(groups.path).join(name);
    let can_kill = fs::create_dir(&group).is_ok() && group.join("cgroup.kill").exists();
    let _ = fs::remove_dir(&group);
    can_kill
}

/// The mount of cgroup v2, and the group of this process in it.
struct OwnGroup {
    mount: &'static Path,
    path: String,
}

fn own_group() -> Option<OwnGroup> {
    let groups = fs::read_to_string("/proc/self/cgroup").expect("/proc");
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mount = mounts
        .into_iter()
        .find(|mount| mount.join("cgroup.controllers").exists())?;
    Some(OwnGroup {
        mount,
        path: path.to_owned(),
    })
}

#[tokio::test]
async fn no_zombie_is_left() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.text("fixture", "fork", json!({})).await;
    app.call("default", "fixture", "crash", json!({}))
        .await
        .fails(502, "upstream_error");
    signal(parent_of(app.pid_of("fixture").await), "KILL");
    app.register("broken", json!({ "command": "/nowhere" }))
        .await
        .ok();
    app.register(
        "silent",
        json!({ "env": { "FIXTURE_START": "silent" }, "startupTimeout": 200 }),
    )
    .await
    .ok();
    app.put("/mcp/servers/fixture/enable", json!({})).await.ok();
    app.delete("/mcp/servers/silent").await.ok();
    app.put("/mcp/servers/broken/disable", json!({})).await.ok();
    wait_until("no zombies", async || zombies_of(app.pid()).is_empty()).await;
}
