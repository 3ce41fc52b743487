//! Installs the packages of `INSTALL_ON_START`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::config::InstallOnStart;
use crate::core::command::{ChangeOrigin, InstallPackage, RegisterServer};
use crate::core::event::Actor;
use crate::core::ids::{CommandId, ServerId};
use crate::core::model::package::{FOLDER, Source};
use crate::core::model::server::{ServerConfig, Transport};
use crate::time::clock::now_ms;
use crate::workers::context::Context;

/// Processes that start within this time submit one job.
const SAME_START: Duration = Duration::from_secs(600);

/// Submits a job for each package whose server does not exist. If several processes start together,
/// one of them installs the package.
pub(crate) async fn install_on_start(context: Arc<Context>) {
    for wanted in context.installer.on_start() {
        let server = &wanted.server;
        if context
            .projection
            .catalog()
            .server(server.as_str())
            .is_some()
        {
            continue;
        }
        let command = install_command(wanted);
        let start = (now_ms() / SAME_START.as_millis() as u64).to_string();
        if let Err(failure) = context
            .job_client
            .submit_server_maintenance(server, &command, &start)
            .await
        {
            tracing::warn!(%server, %failure, "cannot install a package of INSTALL_ON_START");
        }
    }
}

fn install_command(wanted: &InstallOnStart) -> InstallPackage {
    let transport = Transport::Stdio {
        command: FOLDER.into(),
        args: vec![],
        env: BTreeMap::new(),
    };
    InstallPackage {
        package: wanted.package.clone(),
        version: wanted.version.clone(),
        source: Source::Node,
        read_server_json: true,
        register: RegisterServer {
            origin: ChangeOrigin::new(CommandId(Uuid::now_v7()), Actor::worker()),
            server: ServerId(Uuid::now_v7()),
            name: wanted.server.clone(),
            config: ServerConfig::new(transport),
            enabled: true,
            session: None,
            sealed: vec![],
        },
    }
}
