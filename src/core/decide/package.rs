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
    let removed = || {
        Failure::new(
            Code::PackageNotFound,
            "The package was removed during the job",
        )
    };
    let server = catalog.server_by_id(upgrade.server).ok_or_else(removed)?;
    let installed = server.package.as_ref().ok_or_else(removed)?;
    if installed.package == upgrade.package {
        return Ok(vec![]);
    }
    if installed.package != upgrade.from {
        return Err(Failure::new(
            Code::Conflict,
            format!(
                "The package of server {} was changed during the job; retry",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;
    use crate::core::model::package::Recipe;

    /// Returns a package whose recipe has the entry point `<command> <args>`.
    fn with_entry(version: &str, command: &str, args: &[&str]) -> Package {
        Package {
            recipe: Some(Recipe {
                digest: version.into(),
                lock: value(50),
                entry: Some(EntryPoint {
                    command: command.into(),
                    args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                }),
            }),
            ..package(version)
        }
    }

    fn config(command: &str, args: &[&str]) -> ServerConfig {
        ServerConfig::new(Transport::Stdio {
            command: command.into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: [].into(),
        })
    }

    fn installed(package: Package) -> Event {
        PackageInstalled {
            server: server_id("memory"),
            name: name("memory"),
            package,
            at: 1,
        }
        .into()
    }

    fn upgraded(package: Package) -> Event {
        PackageUpgraded {
            server: server_id("memory"),
            name: name("memory"),
            package,
            at: 2,
        }
        .into()
    }

    fn updated(config: ServerConfig) -> Event {
        ServerUpdated {
            server: server_id("memory"),
            name: name("memory"),
            config,
        }
        .into()
    }

    fn latest_found(latest: &str) -> Event {
        PackageLatestFound {
            server: server_id("memory"),
            name: name("memory"),
            latest: latest.into(),
        }
        .into()
    }

    fn install() -> InstallBuiltPackage {
        InstallBuiltPackage {
            register: RegisterServer {
                origin: origin(1),
                server: server_id("memory"),
                name: name("memory"),
                config: stdio_config("npx"),
                enabled: true,
                session: None,
                sealed: vec![],
            },
            package: package("1.0.0"),
            at: 1,
        }
    }

    fn switch(from: Package, to: Package) -> SwitchPackage {
        SwitchPackage {
            server: server_id("memory"),
            from,
            package: to,
            at: 2,
        }
    }

    #[test]
    fn an_installation_registers_the_server() {
        let catalog = given([])
            .when(|catalog| install_package(catalog, &install()))
            .then([server_registered("memory"), installed(package("1.0.0"))]);
        assert!(find_installed(&catalog, "memory").is_ok());
    }

    #[test]
    fn an_installation_under_a_used_name_is_a_conflict() {
        given([server_registered("memory")])
            .when(|catalog| install_package(catalog, &install()))
            .then_fails_with(Code::ServerAlreadyExists);
    }

    #[test]
    fn an_upgrade_switches_the_version() {
        let catalog = given([server_registered("memory"), installed(package("1.0.0"))])
            .when(|catalog| upgrade_package(catalog, &switch(package("1.0.0"), package("2.0.0"))))
            .then([upgraded(package("2.0.0"))]);
        let server = catalog.server("memory").expect("a server");
        let installed = server.package.as_ref().expect("a package");
        assert_eq!((installed.installed, installed.upgraded), (1, Some(2)));
        assert_eq!(server.changed, catalog.position);
    }

    #[test]
    fn a_repeated_upgrade_changes_nothing() {
        given([server_registered("memory"), installed(package("2.0.0"))])
            .when(|catalog| upgrade_package(catalog, &switch(package("1.0.0"), package("2.0.0"))))
            .then_nothing();
    }

    #[test]
    fn an_upgrade_of_a_changed_package_is_a_conflict() {
        given([server_registered("memory"), installed(package("1.5.0"))])
            .when(|catalog| upgrade_package(catalog, &switch(package("1.0.0"), package("2.0.0"))))
            .then_fails_with(Code::Conflict);
    }

    #[test]
    fn an_upgrade_of_a_removed_package_fails() {
        for events in [vec![], vec![server_registered("memory")]] {
            given(events)
                .when(|catalog| {
                    upgrade_package(catalog, &switch(package("1.0.0"), package("2.0.0")))
                })
                .then_fails_with(Code::PackageNotFound);
        }
    }

    #[test]
    fn an_upgrade_follows_the_entry_point_of_the_new_version() {
        let old = with_entry("1.0.0", "node", &["${package}/old.js"]);
        let new = with_entry("2.0.0", "node", &["${package}/new.js"]);
        let before = config("node", &["${package}/old.js", "--verbose"]);
        let after = config("node", &["${package}/new.js", "--verbose"]);
        given([registered("memory", before), installed(old.clone())])
            .when(|catalog| upgrade_package(catalog, &switch(old, new.clone())))
            .then([updated(after), upgraded(new.clone())]);
    }

    #[test]
    fn an_upgrade_keeps_a_command_line_that_a_user_has_changed() {
        let old = with_entry("1.0.0", "node", &["${package}/old.js"]);
        let new = with_entry("2.0.0", "node", &["${package}/new.js"]);
        for own in [
            config("bun", &["${package}/old.js"]),
            config("node", &["${package}/own.js"]),
        ] {
            given([registered("memory", own), installed(old.clone())])
                .when(|catalog| upgrade_package(catalog, &switch(old.clone(), new.clone())))
                .then([upgraded(new.clone())]);
        }
    }

    #[test]
    fn the_newest_version_is_recorded_once() {
        let found = [(server_id("memory"), "3.0.0".to_owned())];
        let catalog = given([server_registered("memory"), installed(package("1.0.0"))])
            .when(|catalog| record_latest(catalog, &found))
            .then([latest_found("3.0.0")]);
        assert!(record_latest(&catalog, &found).is_empty());
        let server = catalog.server("memory").expect("a server");
        let installed = server.package.as_ref().expect("a package");
        assert!(installed.update_available());
    }

    #[test]
    fn the_newest_version_of_an_unknown_package_is_not_recorded() {
        let found = [
            (server_id("memory"), "3.0.0".to_owned()),
            (server_id("time"), "3.0.0".to_owned()),
        ];
        given([server_registered("memory")])
            .when(|catalog| record_latest(catalog, &found))
            .then_nothing();
    }

    #[test]
    fn a_server_without_a_package_is_no_package() {
        let catalog = given([server_registered("memory")]).catalog;
        for server in ["memory", "time"] {
            let failure = find_installed(&catalog, server).expect_err(server);
            assert_eq!(failure.code, Code::PackageNotFound);
        }
    }
}
