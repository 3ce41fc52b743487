//! `mcp-api backup` under load, and `mcp-api restore`: what comes back is one moment of what was there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{App, answer};
use crate::process::{command, owned};

fn run(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    command(dir, &owned(env)).args(args).output().expect("run")
}

fn ok(output: Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn wrong(output: Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Everything that has happened.
async fn events(app: &App) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), "0.0".to_owned());
    loop {
        let mut page = app
            .get(&format!("/events?limit=1000&after={after}"))
            .await
            .ok();
        let found = page["events"]
            .as_array_mut()
            .map(std::mem::take)
            .expect("events");
        if found.is_empty() {
            return all;
        }
        all.extend(found);
        after = page["next"].as_str().expect("next").to_owned();
    }
}

async fn servers(app: &App) -> Vec<Value> {
    let mut servers = app.get("/mcp/servers").await.ok();
    let servers = servers["servers"]
        .as_array_mut()
        .map(std::mem::take)
        .expect("servers");
    let known = |mut server: Value| {
        // How it looks right now is no part of what is kept.
        let fields = server.as_object_mut().expect("a server");
        fields.retain(|field, _| !["status", "logs", "error", "details"].contains(&field.as_str()));
        server
    };
    servers.into_iter().map(known).collect()
}

/// Changes without a pause until told to stop.
fn writer(app: &App, user: usize, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (http, url) = (app.http.clone(), app.url.clone());
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let secret = json!({ "username": format!("u{user}"), "serverName": "fixture", "secretName": "token", "secretValue": format!("{n}") });
            answer(http.post(format!("{url}/secrets/set")).json(&secret))
                .await
                .ok();
            if n % 7 == 0 {
                let server = json!({ "name": format!("off-{user}-{n}"), "command": "true", "enabled": false });
                answer(http.post(format!("{url}/mcp/servers")).json(&server))
                    .await
                    .ok();
            }
        }
        n
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_one_moment_of_it() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|user| writer(&app, user, stop.clone()))
        .collect();
    let dir = app.dir.path().to_owned();
    for n in 0..3 {
        app.until("/events?limit=1000", |page| {
            page["events"]
                .as_array()
                .is_some_and(|all| all.len() > 40 * (n + 1))
        })
        .await;
        let said = ok(tokio::task::block_in_place(|| {
            run(&dir, &["backup", &format!("copy-{n}")], &[])
        }));
        assert!(said.contains("secrets.key in another place"), "{said}");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in join_all(writers).await {
        assert!(writer.expect("no change failed") > 0);
    }
    ok(run(&dir, &["backup", "copy-3"], &[]));
    let (before, servers_before) = (events(&app).await, servers(&app).await);
    app.terminate();

    let mut lengths = vec![];
    for n in 0..4 {
        let copy = dir.join(format!("copy-{n}"));
        assert_eq!(
            fs::metadata(&copy).expect("a copy").permissions().mode() & 0o777,
            0o600
        );
        for ending in ["-wal", "-shm", ".part"] {
            assert!(!dir.join(format!("copy-{n}{ending}")).exists(), "{ending}");
        }
        for ending in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(app.data().join(format!("mcp-api.sqlite{ending}")));
        }
        let said = ok(run(&dir, &["restore", copy.to_str().expect("UTF-8")], &[]));
        assert!(said.contains("secrets.key opens them"), "{said}");
        let store = app.data().join("mcp-api.sqlite");
        assert_eq!(
            fs::metadata(&store).expect("a store").permissions().mode() & 0o777,
            0o600
        );
        app.restart();
        let after = events(&app).await;
        // The fixture has told its tools in the meantime: all else is what it was.
        let kept = after.len().min(before.len());
        assert_eq!(after[..kept], before[..kept]);
        lengths.push(after.len());
        // Every secret that the log names is there, and opens.
        for user in 0..8 {
            let told = format!("\"user\":\"u{user}\"");
            let set = after
                .iter()
                .filter(|event| event.to_string().contains(&told))
                .count();
            let args = app
                .call(&format!("u{user}"), "fixture", "arguments", json!({}))
                .await
                .ok();
            let args: Value =
                serde_json::from_str(args["data"]["content"].as_str().expect("a text"))
                    .expect("JSON");
            let expected = if set == 0 {
                Value::Null
            } else {
                json!(set.to_string())
            };
            assert_eq!(args["token"], expected);
        }
        if n == 3 {
            assert_eq!(servers(&app).await, servers_before);
        }
        app.terminate();
    }
    assert!(
        lengths.is_sorted() && lengths[0] < lengths[3],
        "{lengths:?}"
    );
    app.restart();
}

#[tokio::test]
async fn nothing_is_overwritten_and_what_is_wrong_is_said() {
    let mut app = App::embedded();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    app.set_secret("ana", "fixture", "token", "v-a-l-u-e").await;
    let dir = app.dir.path().to_owned();
    let elsewhere = TempDir::new().expect("a folder");
    let away = elsewhere.path().to_owned();
    let copy = away.join("copy").display().to_string();
    ok(run(&dir, &["backup", &copy], &[]));
    assert!(wrong(run(&dir, &["backup", &copy], &[])).contains("is there already"));
    assert!(wrong(run(&dir, &["backup", "/nowhere/copy"], &[])).contains("cannot be written"));
    assert!(wrong(run(&dir, &["restore", &copy], &[])).contains("in use by another mcp-api"));
    app.terminate();
    // Nobody serves it, and a backup is made all the same.
    ok(run(&dir, &["backup", "copy"], &[]));
    assert!(wrong(run(&dir, &["restore", &copy], &[])).contains("mcp-api.sqlite is there already"));

    // Another folder: no key there, and none is made.
    let said = ok(run(&away, &["restore", &copy], &[]));
    assert!(said.contains("secrets.key does not open them"), "{said}");
    let key = fs::read_to_string(app.data().join("secrets.key")).expect("a key");
    fs::remove_file(away.join("data/mcp-api.sqlite")).expect("removed");
    fs::write(away.join("data/mcp-api.sqlite-wal"), "of another").expect("written");
    assert!(wrong(run(&away, &["restore", &copy], &[])).contains("sqlite-wal is there already"));
    fs::remove_file(away.join("data/mcp-api.sqlite-wal")).expect("removed");
    let said = ok(run(
        &away,
        &["restore", &copy],
        &[("SECRETS_KEY", key.trim())],
    ));
    assert!(
        said.contains("SECRETS_KEY opens them") && !said.contains(key.trim()),
        "{said}"
    );

    // What is no backup of ours, and what is half of one.
    let whole = fs::read(&copy).expect("a copy");
    for (name, bytes) in [
        ("text", &b"hello"[..]),
        ("empty", b""),
        ("half", &whole[..whole.len() / 2]),
    ] {
        let there = TempDir::new().expect("a folder");
        let file = there.path().join(name);
        fs::write(&file, bytes).expect("written");
        let said = wrong(run(
            there.path(),
            &["restore", file.to_str().expect("UTF-8")],
            &[],
        ));
        assert!(
            said.contains(name) && said.contains("cannot be copied"),
            "{said}"
        );
        let left: Vec<_> = fs::read_dir(there.path().join("data"))
            .expect("a folder")
            .flatten()
            .map(|f| f.file_name())
            .collect();
        assert_eq!(left, ["lock"]);
    }
    assert!(
        wrong(run(
            &away,
            &["backup", "x"],
            &[("MONGO_URL", "mongodb://127.0.0.1/"), ("SECRETS_KEY", "k")]
        ))
        .contains("mongodump")
    );
    let nothing = TempDir::new().expect("a folder");
    assert!(wrong(run(nothing.path(), &["backup", "x"], &[])).contains("there is no store yet"));
    app.restart();
}
