//! The decisions about packages: installing, upgrading and checking them.

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

/// A package that a worker has built and started once, and its server.
#[derive(Debug, Clone)]
pub struct InstallBuiltPackage {
    pub register: RegisterServer,
    pub package: Package,
    /// The time of the installation, in milliseconds since 1970.
    pub at: u64,
}

/// Another version of a package that a worker has built and started once.
#[derive(Debug, Clone)]
pub struct SwitchPackage {
    pub server: ServerId,
    /// The package that the new version replaces.
    pub from: Package,
    pub package: Package,
    /// The time of the upgrade, in milliseconds since 1970.
    pub at: u64,
}

/// Registers the server of a built package.
///
/// # Errors
/// Fails if the server cannot be registered.
pub fn install_package(
    catalog: &Catalog,
    install: &InstallBuiltPackage,
) -> Result<Vec<Event>, Failure> {
    let mut events = super::server::register_server(catalog, &install.register)?;
    let installed = PackageInstalled {
        server: install.register.server,
        name: install.register.name.clone(),
        package: install.package.clone(),
        at: install.at,
    };
    events.push(installed.into());
    Ok(events)
}

/// Switches a server to another version of its package. Returns no event if the server has this version already.
///
/// # Errors
/// Fails if the package is gone or if another command has changed it.
pub fn upgrade_package(catalog: &Catalog, upgrade: &SwitchPackage) -> Result<Vec<Event>, Failure> {
    let removed = || Failure::new(Code::PackageNotFound, "The package was removed meanwhile");
    let server = catalog.server_by_id(upgrade.server).ok_or_else(removed)?;
    let installed = server.package.as_ref().ok_or_else(removed)?;
    if installed.package == upgrade.package {
        return Ok(vec![]);
    }
    if installed.package != upgrade.from {
        return Err(Failure::new(
            Code::Conflict,
            format!(
                "The package of server {} was changed meanwhile; retry",
                server.name
            ),
        ));
    }
    let config = replace_entry(&server.config, &upgrade.from, &upgrade.package);
    let mut events = Vec::new();
    if config != *server.config {
        let updated = ServerUpdated {
            server: server.id,
            name: server.name.clone(),
            config,
        };
        events.push(updated.into());
    }
    let upgraded = PackageUpgraded {
        server: server.id,
        name: server.name.clone(),
        package: upgrade.package.clone(),
        at: upgrade.at,
    };
    events.push(upgraded.into());
    Ok(events)
}

/// Returns the configuration with the entry point of the new version. A command line that a user has changed stays.
pub fn replace_entry(config: &ServerConfig, from: &Package, to: &Package) -> ServerConfig {
    let mut config = config.clone();
    let (Some(old_entry), Some(new_entry)) = (entry_point(from), entry_point(to)) else {
        return config;
    };
    if let Transport::Stdio { command, args, .. } = &mut config.transport
        && *command == old_entry.command
        && args.starts_with(&old_entry.args)
    {
        command.clone_from(&new_entry.command);
        args.splice(..old_entry.args.len(), new_entry.args.iter().cloned());
    }
    config
}

fn entry_point(package: &Package) -> Option<&EntryPoint> {
    package
        .recipe
        .as_ref()
        .and_then(|recipe| recipe.entry.as_ref())
}

/// Records the newest versions that a check has found. A version that is recorded already gives no event.
pub fn record_latest(catalog: &Catalog, found: &[(ServerId, String)]) -> Vec<Event> {
    let mut events = Vec::new();
    for (id, latest) in found {
        let Some(server) = catalog.server_by_id(*id) else {
            continue;
        };
        let Some(installed) = &server.package else {
            continue;
        };
        if installed.latest.as_ref() != Some(latest) {
            let latest_found = PackageLatestFound {
                server: *id,
                name: server.name.clone(),
                latest: latest.clone(),
            };
            events.push(latest_found.into());
        }
    }
    events
}

/// Returns the event for the package of a deleted server, if the server has a package.
pub fn package_removed(server: &Server) -> Option<Event> {
    server.package.as_ref()?;
    let removed = PackageRemoved {
        server: server.id,
        name: server.name.clone(),
    };
    Some(removed.into())
}

/// Returns the server with this name and a package.
///
/// # Errors
/// Fails if the server does not exist or has no package.
pub fn find_installed<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a Server, Failure> {
    catalog
        .server(name)
        .map(AsRef::as_ref)
        .filter(|server| server.package.is_some())
        .ok_or_else(|| {
            Failure::new(
                Code::PackageNotFound,
                format!("Package of server {name} not found"),
            )
        })
}
