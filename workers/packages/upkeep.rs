//! Has packages installed that are to be there, and removes files that nobody needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::OnStart;
use crate::core::command::{InstallPackage, RegisterServer};
use crate::core::names::{CommandId, ServerId};
use crate::core::package::{FOLDER, Source};
use crate::core::server::{ServerConfig, Transport};
use crate::execute::now_ms;
use crate::workers::context::Context;

/// A change of servers rarely comes alone.
const REST: Duration = Duration::from_millis(500);
/// Processes that start within that time have started together.
const TOGETHER: Duration = Duration::from_secs(600);
/// How often is looked for what others have left behind.
const SWEEP: Duration = Duration::from_secs(3600);

/// Has those packages installed that are to be there from the beginning; of many workers one does it.
pub async fn install_missing(context: Arc<Context>) {
    let wanted = context.installer.on_start().iter();
    for OnStart { package, version, server: name } in wanted {
        if context.follow.catalog().server(name.as_str()).is_some() {
            continue;
        }
        let transport = Transport::Stdio { command: FOLDER.into(), args: vec![], env: BTreeMap::new() };
        let config = ServerConfig::new(transport);
        let (id, server) = (CommandId(Uuid::now_v7()), ServerId(Uuid::now_v7()));
        let register = RegisterServer {
            id,
            key: None,
            server,
            name: name.clone(),
            config,
            enabled: true,
            session: None,
            sealed: vec![],
        };
        let (package, version, source) = (package.clone(), version.clone(), Source::Node);
        let command = InstallPackage { package, version, source, register };
        // Processes that start together want the same.
        let when = (now_ms() / TOGETHER.as_millis() as u64).to_string();
        if let Err(failure) = context.queue.upkeep_of(name, &command, &when).await {
            tracing::warn!(server = %name, %failure, "a package of INSTALL_ON_START is not being installed");
        }
    }
}

/// Removes files that nobody needs, whenever there may be some: at start, after changes, and now and then.
pub async fn keep_clean(context: Arc<Context>, draining: CancellationToken) {
    let mut moves = context.follow.moves();
    let mut known = None;
    loop {
        let changed = context.follow.catalog().servers_changed;
        if known != Some(changed) {
            known = Some(changed);
            context.installer.sweep(&context.follow).await;
        }
        tokio::select! {
            () = draining.cancelled() => return,
            moved = moves.changed() => if moved.is_err() { return },
            () = context.installer.freed.notified() => known = None,
            () = tokio::time::sleep(SWEEP) => known = None,
        }
        tokio::time::sleep(REST).await;
    }
}
