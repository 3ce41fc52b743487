//! The variables and the other processes that a server can see.

use std::fs;

use serde_json::{Value, json};

use crate::harness::App;
use crate::processes::children_of;

#[tokio::test]
async fn the_env_of_a_server_does_not_reach_its_guard() {
    let app = App::embedded_with(&[("SECRETS_KEY", "a passphrase")]);
    let env =
        json!({ "env": { "OWN": "1", "LD_PRELOAD": "/nowhere/own.so", "PATH": "/usr/bin:/bin" } });
    app.register("fixture", env).await.ok();
    let pid = app.pid_of("fixture").await;
    let environment =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/environ")).expect("variables");
    let child = environment(pid);
    assert!(
        child.contains("OWN=1") && child.contains("LD_PRELOAD="),
        "{child}"
    );
    // The guard starter is a child of the program too.
    for pid in children_of(app.pid()) {
        let own = environment(pid);
        for name in ["OWN=", "LD_PRELOAD=", "SECRETS_KEY="] {
            assert!(!own.contains(name), "{name} is in {own}");
        }
    }
}

#[tokio::test]
async fn a_server_cannot_read_or_signal_other_processes() {
    let app = App::embedded();
    app.register_fixture("spy").await.ok();
    app.register_fixture("other").await.ok();
    let (spy, other) = (app.pid_of("spy").await, app.pid_of("other").await);
    let read = async |path: String| app.text("spy", "read_file", json!({ "path": path })).await;
    let kill = async |pid: u32| {
        app.text("spy", "kill_process", json!({ "pid": pid, "signal": 0 }))
            .await
    };
    assert!(
        read(format!("/proc/{spy}/environ"))
            .await
            .starts_with("read "),
        "a server may read its own environment"
    );
    assert_eq!(kill(spy).await, "sent");
    // The children of the program are the guards and their starter.
    let others = children_of(app.pid()).chain([app.pid(), other]);
    for pid in others {
        for file in ["environ", "mem", "fd/0"] {
            assert_eq!(
                read(format!("/proc/{pid}/{file}")).await,
                "refused: Permission denied",
                "{file} of {pid}"
            );
        }
        assert_eq!(kill(pid).await, "refused: Operation not permitted", "{pid}");
    }
}

/// The caches of package managers move files. A Landlock domain forbids it unless a rule allows it.
#[tokio::test]
async fn a_server_moves_files_between_folders() {
    let app = App::embedded();
    app.register_fixture("mover").await.ok();
    let (from, to) = (app.dir.path().join("from"), app.dir.path().join("to"));
    for folder in [&from, &to] {
        std::fs::create_dir(folder).expect("a folder");
    }
    std::fs::write(from.join("file"), "text").expect("a file");
    let args = json!({ "from": from.join("file"), "to": to.join("file") });
    assert_eq!(app.text("mover", "move_file", args).await, "moved");
    assert!(to.join("file").exists());
}

#[tokio::test]
async fn a_server_gets_its_env_and_the_passed_on_variables() {
    let planted = [
        ("PLANTED", "for nobody"),
        ("SECRETS_KEY", "a passphrase"),
        ("HTTPS_PROXY", "http://proxy.test:1"),
        ("ADMIN_TOKEN", ""),
    ];
    let app = App::embedded_with(&planted);
    app.register("fixture", json!({ "env": { "OWN": "1", "LANG": "xx" } }))
        .await
        .ok();
    let seen: Value =
        serde_json::from_str(&app.text("fixture", "environment", json!({})).await).expect("JSON");
    let passed_on = [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TMPDIR",
        "HTTPS_PROXY",
        "OWN",
        "LC_CTYPE",
    ];
    // Python sets LC_CTYPE itself.
    for name in seen.as_object().expect("variables").keys() {
        assert!(
            passed_on.contains(&name.as_str()),
            "{name} reached the server"
        );
    }
    assert_eq!((&seen["OWN"], &seen["LANG"]), (&json!("1"), &json!("xx")));
    assert_eq!(seen["HTTPS_PROXY"], "http://proxy.test:1");
    assert_eq!(
        seen["PATH"].as_str().map(str::to_owned),
        std::env::var("PATH").ok()
    );
}
