//! Many workers: one worker installs a package, and every worker runs it from its own disk.

use std::time::Duration;

use serde_json::json;

use super::{MEMORY_NEW, env};
use crate::harness::App;
use crate::process::Process;
use crate::wait::wait_at_most;

#[tokio::test]
async fn every_worker_builds_the_packages_of_its_servers() {
    let env = env();
    let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut app = App::distributed(0, &env);
    // Workers with disks of their own, and one that only installs.
    let add = |app: &mut App, name: &str, pools: &str| {
        let mut env: Vec<_> = app.processes[0]
            .env
            .iter()
            .filter(|(k, _)| k != "ROLES")
            .cloned()
            .collect();
        env.push(("ROLES".into(), "worker".into()));
        env.push(("POOLS".into(), pools.into()));
        env.push((
            "PACKAGES_DIR".into(),
            app.dir
                .path()
                .join(name)
                .join("packages")
                .display()
                .to_string(),
        ));
        let log = app.dir.path().join(format!("log.{name}"));
        app.processes.push(Process::start(app.dir.path(), log, env));
    };
    add(&mut app, "installs", "packages");
    add(&mut app, "a", "tools");
    app.until("/readyz", |body| body["success"] == true).await;
    let installed = app.install_memory("memory", MEMORY_NEW).await.ok();
    assert_eq!(installed["server"]["status"], "connected", "{installed}");
    app.text("memory", "read_graph", json!({})).await;
    let built = |app: &App, name: &str| {
        std::fs::read_dir(app.dir.path().join(name).join("packages/.versions"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join(".complete").exists())
            .map(|entry| entry.file_name())
            .collect::<Vec<_>>()
    };
    assert_eq!(built(&app, "a"), built(&app, "installs"));
    assert_eq!(built(&app, "a").len(), 1);

    // Another worker takes over, on an empty disk.
    add(&mut app, "b", "tools");
    app.processes[2].kill();
    let taken_over = wait_at_most(Duration::from_secs(240), async || {
        let called = app.call("default", "memory", "read_graph", json!({})).await;
        (called.status == 200).then_some(())
    });
    assert!(
        taken_over.await.is_some(),
        "no worker has taken over the server"
    );
    assert_eq!(built(&app, "b"), built(&app, "installs"));
    let locks = |name: &str| {
        let folder = app
            .dir
            .path()
            .join(name)
            .join("packages/.versions")
            .join(&built(&app, name)[0]);
        std::fs::read_to_string(folder.join("node_modules/.package-lock.json"))
            .expect("npm's own account")
    };
    assert_eq!(locks("b"), locks("installs"));
}
