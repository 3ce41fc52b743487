//! Has packages installed that are to be there, and removes files that nobody needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::config::InstallOnStart;
use crate::core::command::{InstallPackage, RegisterServer};
use crate::core::ids::{CommandId, ServerId};
use crate::core::model::package::{FOLDER, Source};
use crate::core::model::server::{ServerConfig, Transport};
use crate::time::clock::now_ms;
use crate::workers::context::Context;

/// A change of servers rarely comes alone.
pub const REST: Duration = Duration::from_millis(500);
/// Processes that start within that time have started together.
const TOGETHER: Duration = Duration::from_secs(600);

/// Has those packages installed that are to be there from the beginning; of many workers one does it.
pub async fn install_on_start(context: Arc<Context>) {
    let wanted = context.installer.on_start().iter();
    for InstallOnStart {
        package,
        version,
        server: name,
    } in wanted
    {
        if context.projection.catalog().server(name.as_str()).is_some() {
            continue;
        }
        let transport = Transport::Stdio {
            command: FOLDER.into(),
            args: vec![],
            env: BTreeMap::new(),
        };
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
        let command = InstallPackage {
            package,
            version,
            source,
            register,
        };
        // Processes that start together want the same.
        let when = (now_ms() / TOGETHER.as_millis() as u64).to_string();
        if let Err(failure) = context
            .job_client
            .submit_server_maintenance(name, &command, &when)
            .await
        {
            tracing::warn!(server = %name, %failure, "a package of INSTALL_ON_START is not being installed");
        }
    }
}
