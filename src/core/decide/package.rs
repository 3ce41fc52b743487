//! The decisions: what installing, upgrading and checking make of a catalogue.

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::RegisterServer;
use crate::core::event::{
    Event, PackageInstalled, PackageLatestFound, PackageRemoved, PackageUpgraded, ServerUpdated,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::package::{EntryPoint, Package};
use crate::core::model::server::{ServerConfig, Transport};

/// A package that was built and proven, and the server it is for.
#[derive(Debug, Clone)]
pub struct InstallBuiltPackage {
    pub register: RegisterServer,
    pub package: Package,
    /// Milliseconds since 1970.
    pub at: u64,
}

/// Another version that was built and proven.
#[derive(Debug, Clone)]
pub struct SwitchPackage {
    pub server: ServerId,
    /// What it was built to take the place of.
    pub from: Package,
    pub package: Package,
    /// Milliseconds since 1970.
    pub at: u64,
}

pub fn install_package(
    catalog: &Catalog,
    install: &InstallBuiltPackage,
) -> Result<Vec<Event>, Failure> {
    let mut events = super::server::register_server(catalog, &install.register)?;
    let (server, name) = (install.register.server, install.register.name.clone());
    events.push(
        PackageInstalled {
            server,
            name,
            package: install.package.clone(),
            at: install.at,
        }
        .into(),
    );
    Ok(events)
}

/// The server is as it was, but for how the new version wants to be started.
pub fn upgrade_package(catalog: &Catalog, upgrade: &SwitchPackage) -> Result<Vec<Event>, Failure> {
    let gone = || Failure::new(Code::PackageNotFound, "The package was removed meanwhile");
    let server = catalog.server_by_id(upgrade.server).ok_or_else(gone)?;
    let installed = server.package.as_ref().ok_or_else(gone)?;
    if installed.package == upgrade.package {
        return Ok(vec![]);
    }
    if installed.package != upgrade.from {
        let raced = format!(
            "The package of server {} was changed meanwhile; ask again",
            server.name
        );
        return Err(Failure::new(Code::Conflict, raced));
    }
    let config = replace_entry(&server.config, &upgrade.from, &upgrade.package);
    let (id, name) = (server.id, server.name.clone());
    let mut events = Vec::new();
    if config != *server.config {
        events.push(
            ServerUpdated {
                server: id,
                name: name.clone(),
                config,
            }
            .into(),
        );
    }
    events.push(
        PackageUpgraded {
            server: id,
            name,
            package: upgrade.package.clone(),
            at: upgrade.at,
        }
        .into(),
    );
    Ok(events)
}

/// The configuration with the new version's own entry, unless a user has changed the command line.
pub fn replace_entry(config: &ServerConfig, from: &Package, to: &Package) -> ServerConfig {
    let entry = |package: &Package| {
        package
            .recipe
            .as_ref()
            .and_then(|recipe| recipe.entry.clone())
    };
    let mut config = config.clone();
    let (Some(old), Some(new)) = (entry(from), entry(to)) else {
        return config;
    };
    if let Transport::Stdio { command, args, .. } = &mut config.transport
        && *command == old.command
        && args.starts_with(&old.args)
    {
        let EntryPoint {
            command: new_command,
            args: new_args,
        } = new;
        args.splice(..old.args.len(), new_args);
        *command = new_command;
    }
    config
}

/// What a check found is recorded only while that package is still there, and only when it is news.
pub fn record_latest(catalog: &Catalog, found: &[(ServerId, String)]) -> Vec<Event> {
    let news = found.iter().filter_map(|(id, latest)| {
        let server = catalog.server_by_id(*id)?;
        let known = server.package.as_ref()?.latest.as_ref();
        let event = PackageLatestFound {
            server: *id,
            name: server.name.clone(),
            latest: latest.clone(),
        };
        (known != Some(latest)).then(|| event.into())
    });
    news.collect()
}

/// What else is gone with a server.
pub fn package_removed(server: &Server) -> Option<Event> {
    server.package.as_ref().map(|_| {
        PackageRemoved {
            server: server.id,
            name: server.name.clone(),
        }
        .into()
    })
}

/// The server of that name, with its package.
pub fn find_installed<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Server, Failure> {
    let server = catalog
        .server(name)
        .map(AsRef::as_ref)
        .filter(|server| server.package.is_some());
    server.ok_or_else(|| {
        Failure::new(
            Code::PackageNotFound,
            format!("Package of server {name} not found"),
        )
    })
}
