//! Installs packages: finds out what exactly is to be installed, builds it once, and tells how it is started.
//!
//! [`npm`] and [`pip`] do it with the tools of that name, each run by [`tool`] under a guard; [`shelf`] keeps what was
//! built, a folder a recipe. Everything here may be dropped at any moment and done again.

pub mod build;
pub mod diagnose;
mod npm;
mod pip;
pub mod process;
pub mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use zeroize::Zeroizing;

pub use self::build::{ensure_built, open_install_context};
pub use self::store::PackageHandle;
use self::store::{PackageStore, drop_links};
use super::redact::Redactor;
use crate::config::{InstallOnStart, Packages};
use crate::core::failure::{Code, Failure};
use crate::core::model::package::{EntryPoint, PackageDirs, Source};
use crate::core::names::{PackageName, ServerName};
use crate::eventlog::projection::Projection;

/// How long it may take to find out what is to be installed.
const RESOLVE: Duration = Duration::from_secs(300);
/// How long a build may take, and the wait for somebody else's.
pub const BUILD: Duration = Duration::from_secs(600);
/// How long a registry may take to say which version is the newest.
const LOOK: Duration = Duration::from_secs(60);
/// Characters of a digest: it is a folder's name.
const DIGEST: usize = 32;

/// Hears how far an installation is.
pub trait ProgressSink: Send + Sync {
    fn phase(&self, phase: &str);
    /// A line of npm or pip, credentials masked.
    fn line(&self, line: &str);
}

/// What is to be installed.
pub struct PackageRequest<'a> {
    pub name: &'a PackageName,
    /// A version or a tag; the newest where absent.
    pub version: Option<&'a str>,
    pub source: &'a Source,
}

/// Package indexes with their credentials, where an installation names some.
#[derive(Default)]
pub struct Indexes {
    pub url: Option<Zeroizing<String>>,
    pub extra: Option<Zeroizing<String>>,
}

/// Whom an installation tells, and what only it knows.
#[derive(Clone)]
pub struct InstallContext {
    pub progress: Arc<dyn ProgressSink>,
    pub redactor: Arc<Redactor>,
    pub indexes: Arc<Indexes>,
}

/// What exactly is to be installed.
pub struct Resolved {
    pub version: String,
    pub lock: String,
    /// Of everything that decides which files there will be.
    pub digest: String,
}

/// This worker's packages.
pub struct Installer {
    packages: Packages,
    node: PackageStore,
    python: PackageStore,
    /// Rung when something built is not used any more.
    pub freed: Arc<Notify>,
}

impl Installer {
    pub fn new(packages: Packages) -> Self {
        let freed = Arc::<Notify>::default();
        let shelf = |folder: &Path| PackageStore::new(folder.join(".versions"), freed.clone());
        let (node, python) = (
            shelf(&packages.folders.node),
            shelf(&packages.folders.python),
        );
        Self {
            node,
            python,
            packages,
            freed,
        }
    }

    /// What is to be there from the beginning.
    pub fn on_start(&self) -> &[InstallOnStart] {
        &self.packages.on_start
    }

    pub fn folders(&self) -> &PackageDirs {
        &self.packages.folders
    }

    fn shelf(&self, source: &Source) -> &PackageStore {
        match source {
            Source::Node => &self.node,
            Source::Python(_) => &self.python,
        }
    }

    /// Asks the registry which version that is, and which ones it needs.
    pub async fn resolve(
        &self,
        wanted: &PackageRequest<'_>,
        around: &InstallContext,
    ) -> Result<Resolved, Failure> {
        around.progress.phase("resolving");
        let resolving = async {
            match wanted.source {
                Source::Node => npm::resolve(self, wanted, around).await,
                Source::Python(python) => pip::resolve(self, wanted, python, around).await,
            }
        };
        let (version, lock) = in_time(RESOLVE, wanted.name, resolving).await?;
        let mut hash = Sha256::new();
        for part in [
            wanted.source.runtime(),
            wanted.name.as_str(),
            &version,
            &lock,
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hex::encode(hash.finalize())[..DIGEST].to_owned();
        Ok(Resolved {
            version,
            lock,
            digest,
        })
    }

    /// What was built already. It stays as long as the answer is kept.
    pub fn built(&self, source: &Source, digest: &str) -> Option<PackageHandle> {
        self.shelf(source).acquire(digest)
    }

    /// What the recipe makes; it is built where it is not there. Whoever builds the same meanwhile is waited for.
    pub async fn build(
        &self,
        name: &PackageName,
        source: &Source,
        digest: &str,
        lock: &str,
        around: &InstallContext,
    ) -> Result<PackageHandle, Failure> {
        let (shelf, folder) = (self.shelf(source), self.shelf(source).folder(digest));
        let build = async {
            around.progress.phase("installing");
            match source {
                Source::Node => npm::build(self, name, &folder, lock, around).await,
                Source::Python(_) => pip::build(self, name, &folder, lock, around).await,
            }
        };
        in_time(BUILD, name, shelf.acquire_or_build(digest, build.boxed())).await
    }

    /// How the package says it is to be started.
    pub fn entry(
        &self,
        name: &PackageName,
        source: &Source,
        built: &PackageHandle,
    ) -> Result<EntryPoint, Failure> {
        match source {
            Source::Node => npm::entry(name, &built.folder),
            Source::Python(python) => pip::entry(python),
        }
    }

    /// A program by its bare name is the package's own where it has one of that name.
    pub fn own_program(
        &self,
        source: &Source,
        built: &PackageHandle,
        command: &str,
    ) -> Option<String> {
        let programs = match source {
            Source::Node => "node_modules/.bin",
            Source::Python(_) => "bin",
        };
        let bare = !command.contains('/') && !command.is_empty();
        let own = bare && built.folder.join(programs).join(command).exists();
        own.then(|| {
            format!(
                "{}/{programs}/{command}",
                crate::core::model::package::FOLDER
            )
        })
    }

    /// The newest version there is.
    pub async fn latest(
        &self,
        name: &PackageName,
        source: &Source,
        around: &InstallContext,
    ) -> Result<String, Failure> {
        let looking = async {
            match source {
                Source::Node => npm::latest(self, name, around).await,
                Source::Python(_) => pip::latest(self, name, around).await,
            }
        };
        in_time(LOOK, name, looking).await
    }

    /// Makes the server's link show its current version.
    pub fn link(&self, source: &Source, server: &ServerName, built: &PackageHandle) {
        let link = self.folders().link(source, server);
        if let Err(error) = store::link(&link, &built.folder) {
            tracing::warn!(link = %link.display(), %error, "a package's link could not be made");
        }
    }

    /// Removes what nobody needs: neither the catalogue at the head of the log nor a process that runs it.
    pub async fn sweep(&self, projection: &Projection) {
        let Some(catalog) = store::read(projection).await else {
            return;
        };
        for (shelf, folder) in [
            (&self.node, &self.folders().node),
            (&self.python, &self.folders().python),
        ] {
            drop_links(folder, &catalog);
            shelf.sweep(&catalog, projection).await;
        }
    }
}

async fn in_time<T>(
    limit: Duration,
    name: &PackageName,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = || {
        let minutes = limit.as_secs() / 60;
        Failure::new(
            Code::Timeout,
            format!("Package {name} was not ready after {minutes} minutes"),
        )
    };
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| late())?
}

/// Nobody listens.
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn phase(&self, _: &str) {}
    fn line(&self, _: &str) {}
}
