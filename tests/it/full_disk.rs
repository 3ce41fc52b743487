//! A full disk: changes fail with a sentence that names the disk, and reads and calls go on.
//!
//! The test mounts a small file system in memory, which needs the rights of root.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::App;
use crate::wait::wait_until;

/// A small file system. Dropping it unmounts it.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts the file system. Returns `None` on a machine that does not permit it.
    fn mount() -> Option<Self> {
        let dir = TempDir::new().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { dir });
        }
        assert!(
            std::env::var_os("CI").is_none(),
            "the tests of a full disk need the right to mount a file system"
        );
        println!("skipped: this user cannot mount a file system");
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Writes until no byte is left.
    fn fill(&self) {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("a file");
        for bytes in [1 << 16, 1 << 12, 1] {
            while filler
                .write(&vec![0; bytes])
                .is_ok_and(|written| written > 0)
            {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "not unmounted"
        );
    }
}

async fn set_secret(app: &App, value: &str) -> crate::harness::Answer {
    let body = json!({
        "username": "ana", "serverName": "fixture", "secretName": "token", "secretValue": value,
    });
    app.post("/secrets/set", body).await
}

async fn works_without_changes(app: &App) {
    let refused = set_secret(app, "x").await.fails(503, "unavailable");
    assert!(refused.contains("disk of the store is full"), "{refused}");
    app.until("/mcp/servers/fixture", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    let called = app
        .call("ana", "fixture", "arguments", json!({}))
        .await
        .ok();
    assert!(called.to_string().contains("first"), "{called}");
    app.get("/events").await.ok();
    app.get("/readyz").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_calls_go_on_and_changes_name_the_full_disk() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let data = disk.path().join("data").display().to_string();
    let mut app = App::embedded_with(&[("DATA_DIR", &data)]);
    app.register_fixture("fixture").await.ok();
    set_secret(&app, "first").await.ok();
    disk.fill();
    works_without_changes(&app).await;

    // The file beside the store that SQLite needs has no space after a stop.
    app.terminate();
    disk.fill();
    app.restart();
    works_without_changes(&app).await;
    app.kill();
    disk.fill();
    app.restart();
    works_without_changes(&app).await;
    let log = app.log();
    assert!(
        log.contains("the disk is full"),
        "the operator sees the reason"
    );

    fs::remove_file(disk.filler()).expect("removed");
    wait_until("changes succeed without a restart", async || {
        set_secret(&app, "second").await.status == 200
    })
    .await;
    app.kill_and_restart();
    let called = app
        .call("ana", "fixture", "arguments", json!({}))
        .await
        .ok();
    assert!(called.to_string().contains("second"), "{called}");
}
