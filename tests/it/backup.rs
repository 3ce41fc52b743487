//! `mcp-api backup` under load, and `mcp-api restore`: a backup shows one point in time.

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

/// Returns all events of the log.
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
        // The live status is not stored.
        let fields = server.as_object_mut().expect("a server");
        fields.retain(|field, _| !["status", "logs", "error", "details"].contains(&field.as_str()));
        server
    };
    servers.into_iter().map(known).collect()
}

/// Makes changes without a pause until `stop` is set.
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
async fn a_backup_under_load_shows_one_point_in_time() {
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
        let error = ok(tokio::task::block_in_place(|| {
            run(&dir, &["backup", &format!("copy-{n}")], &[])
        }));
        assert!(error.contains("secrets.key in another place"), "{error}");
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
        let error = ok(run(&dir, &["restore", copy.to_str().expect("UTF-8")], &[]));
        assert!(error.contains("secrets.key opens them"), "{error}");
        let store = app.data().join("mcp-api.sqlite");
        assert_eq!(
            fs::metadata(&store).expect("a store").permissions().mode() & 0o777,
            0o600
        );
        app.restart();
        let after = events(&app).await;
        // The fixture may have recorded its tools during the backup. All other data are unchanged.
        let kept = after.len().min(before.len());
        assert_eq!(after[..kept], before[..kept]);
        lengths.push(after.len());
        // The Vault has every secret that the log names, and the key opens it.
        for user in 0..8 {
            let reported = format!("\"user\":\"u{user}\"");
            let set = after
                .iter()
                .filter(|event| event.to_string().contains(&reported))
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
async fn a_backup_overwrites_nothing_and_names_the_error() {
    let mut app = App::embedded();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    app.set_secret("ana", "fixture", "token", "v-a-l-u-e").await;
    let dir = app.dir.path().to_owned();
    let elsewhere = TempDir::new().expect("a folder");
    let other = elsewhere.path().to_owned();
    let copy = other.join("copy").display().to_string();
    ok(run(&dir, &["backup", &copy], &[]));
    assert!(wrong(run(&dir, &["backup", &copy], &[])).contains("exists already"));
    assert!(wrong(run(&dir, &["backup", "/nowhere/copy"], &[])).contains("cannot be written"));
    assert!(wrong(run(&dir, &["restore", &copy], &[])).contains("another mcp-api uses"));
    app.terminate();
    // A backup needs no running process.
    ok(run(&dir, &["backup", "copy"], &[]));
    assert!(wrong(run(&dir, &["restore", &copy], &[])).contains("mcp-api.sqlite exists already"));

    // A restore into another folder creates no key.
    let error = ok(run(&other, &["restore", &copy], &[]));
    assert!(error.contains("secrets.key does not open them"), "{error}");
    let key = fs::read_to_string(app.data().join("secrets.key")).expect("a key");
    fs::remove_file(other.join("data/mcp-api.sqlite")).expect("removed");
    fs::write(other.join("data/mcp-api.sqlite-wal"), "of another").expect("written");
    assert!(wrong(run(&other, &["restore", &copy], &[])).contains("sqlite-wal exists already"));
    fs::remove_file(other.join("data/mcp-api.sqlite-wal")).expect("removed");
    let error = ok(run(
        &other,
        &["restore", &copy],
        &[("SECRETS_KEY", key.trim())],
    ));
    assert!(
        error.contains("SECRETS_KEY opens them") && !error.contains(key.trim()),
        "{error}"
    );

    // Files that are no backup, and half of a backup.
    let whole = fs::read(&copy).expect("a copy");
    for (name, bytes) in [
        ("text", &b"hello"[..]),
        ("empty", b""),
        ("half", &whole[..whole.len() / 2]),
    ] {
        let target = TempDir::new().expect("a folder");
        let file = target.path().join(name);
        fs::write(&file, bytes).expect("written");
        let error = wrong(run(
            target.path(),
            &["restore", file.to_str().expect("UTF-8")],
            &[],
        ));
        assert!(
            error.contains(name) && error.contains("cannot be copied"),
            "{error}"
        );
        let left: Vec<_> = fs::read_dir(target.path().join("data"))
            .expect("a folder")
            .flatten()
            .map(|f| f.file_name())
            .collect();
        assert_eq!(left, ["lock"]);
    }
    assert!(
        wrong(run(
            &other,
            &["backup", "x"],
            &[("MONGO_URL", "mongodb://127.0.0.1/"), ("SECRETS_KEY", "k")]
        ))
        .contains("mongodump")
    );
    let nothing = TempDir::new().expect("a folder");
    assert!(
        wrong(run(nothing.path(), &["backup", "x"], &[]))
            .contains("does not exist; check DATA_DIR")
    );
    app.restart();
}
