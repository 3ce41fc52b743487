//! Installs packages: finds out what exactly is to be installed, builds it once, and knows how it is
//! started.
//!
//! `npm`, `uv` and `pip` run the programs of these names, and `process` runs each program under a
//! guard. `store` keeps one folder for each recipe. Every operation can be dropped at any moment and
//! repeated.

pub mod build;
mod console_scripts;
mod diagnose;
mod lockfile;
mod npm;
pub mod npm_failure;
mod pip;
mod pip_config;
pub mod pip_failure;
pub mod process;
mod python;
mod python_failure;
mod store;
mod uv;
mod uv_failure;
mod uv_program;
mod uv_settings;

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use zeroize::Zeroizing;

pub use self::build::{ensure_built, open_install_context};
pub use self::store::PackageHandle;
use self::store::{PackageStore, VERSIONS_FOLDER, remove_links};
use self::uv_program::UvProgram;
use super::redact::Redactor;
use crate::config::{InstallOnStart, Packages};
use crate::core::failure::{Code, Failure};
use crate::core::model::package::{EntryPoint, FOLDER, PackageDirs, Source};
use crate::core::names::{PackageName, ServerName};
use crate::eventlog::projection::Projection;

/// The time limit for resolving a package.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(300);
/// The time limit for a build, which includes the wait for another worker's build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(600);
/// The time limit for asking a registry for the newest version.
const LATEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The characters of a digest, which is the name of a folder.
const DIGEST_LENGTH: usize = 32;
/// The largest `server.json` of a package, in bytes.
const MAX_SERVER_JSON: u64 = 1 << 20;

/// Receives the progress of an installation.
pub trait ProgressSink: Send + Sync {
    fn phase(&self, phase: &str);
    /// Receives a line of npm, uv or pip. Credentials are masked.
    fn line(&self, line: &str);
}

/// The package that a user wants.
pub struct PackageRequest<'a> {
    pub name: &'a PackageName,
    /// A version or a tag. The newest version if absent.
    pub version: Option<&'a str>,
    pub source: &'a Source,
}

/// The package indexes of an installation, with their credentials.
#[derive(Default)]
pub struct Indexes {
    pub url: Option<Zeroizing<String>>,
    pub extra: Option<Zeroizing<String>>,
}

/// The services and the credentials of one installation.
#[derive(Clone)]
pub struct InstallContext {
    pub progress: Arc<dyn ProgressSink>,
    pub redactor: Arc<Redactor>,
    pub indexes: Arc<Indexes>,
}

/// The exact content of an installation.
pub struct Resolved {
    pub version: String,
    /// The lockfile: the exact version of every dependency.
    pub lock: String,
    /// The digest of everything that decides about the installed files.
    pub digest: String,
}

/// The packages of this worker.
pub struct Installer {
    packages: Packages,
    node: PackageStore,
    python: PackageStore,
    uv: UvProgram,
    /// Notified when the last user of a folder releases it.
    pub released: Arc<Notify>,
}

impl Installer {
    pub fn new(packages: Packages) -> Self {
        let released = Arc::<Notify>::default();
        let store =
            |folder: &Path| PackageStore::new(folder.join(VERSIONS_FOLDER), released.clone());
        Self {
            node: store(&packages.folders.node),
            python: store(&packages.folders.python),
            uv: UvProgram::default(),
            packages,
            released,
        }
    }

    /// Returns the packages that the operator wants at the start.
    pub fn on_start(&self) -> &[InstallOnStart] {
        &self.packages.on_start
    }

    pub fn folders(&self) -> &PackageDirs {
        &self.packages.folders
    }

    fn store(&self, source: &Source) -> &PackageStore {
        match source {
            Source::Node => &self.node,
            Source::Python(_) => &self.python,
        }
    }

    /// Asks the registry for the exact versions of a package and of all that it needs.
    ///
    /// # Errors
    /// Fails if the package cannot be resolved within five minutes.
    pub async fn resolve(
        &self,
        request: &PackageRequest<'_>,
        context: &InstallContext,
    ) -> Result<Resolved, Failure> {
        context.progress.phase("resolving");
        let resolving = async {
            match request.source {
                Source::Node => npm::resolve(self, request, context).await,
                Source::Python(python) => python::resolve(self, request, python, context).await,
            }
        };
        let (version, lock) = within(RESOLVE_TIMEOUT, request.name, resolving).await?;
        Ok(Resolved {
            digest: recipe_digest(request, &version, &lock),
            version,
            lock,
        })
    }

    /// Returns the folder of a recipe, if this worker has built it. The folder stays while the handle
    /// exists.
    pub fn built(&self, source: &Source, digest: &str) -> Option<PackageHandle> {
        self.store(source).acquire(digest)
    }

    /// Returns the folder of a recipe, and builds it first if necessary. If another process builds the
    /// folder, waits for it.
    ///
    /// # Errors
    /// Fails if the package cannot be built within ten minutes.
    pub async fn build(
        &self,
        name: &PackageName,
        source: &Source,
        digest: &str,
        lock: &str,
        context: &InstallContext,
    ) -> Result<PackageHandle, Failure> {
        let store = self.store(source);
        let folder = store.folder(digest);
        let build = async {
            context.progress.phase("installing");
            match source {
                Source::Node => npm::build(self, name, &folder, lock, context).await,
                Source::Python(_) => python::build(self, name, &folder, lock, context).await,
            }
        };
        let building = store.acquire_or_build(digest, build.boxed());
        within(BUILD_TIMEOUT, name, building).await
    }

    /// Returns the command line that starts a package.
    ///
    /// # Errors
    /// Fails if the package does not say what is started.
    pub fn entry_point(
        &self,
        name: &PackageName,
        source: &Source,
        built: &PackageHandle,
    ) -> Result<EntryPoint, Failure> {
        match source {
            Source::Node => npm::entry_point(name, &built.folder),
            Source::Python(python) => python::entry_point(name, python, &built.folder),
        }
    }

    /// Returns the `server.json` of the MCP registry, if the package has one of at most 1 MiB.
    pub fn server_json(
        &self,
        name: &PackageName,
        source: &Source,
        built: &PackageHandle,
    ) -> Option<String> {
        let folders = match source {
            Source::Node => vec![built.folder.join("node_modules").join(name.as_str())],
            Source::Python(_) => console_scripts::package_folders(name, &built.folder),
        };
        folders
            .iter()
            .find_map(|folder| read_at_most(&folder.join("server.json"), MAX_SERVER_JSON))
    }

    /// Returns the path of a program of the package, if `command` is the bare name of one.
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
        let is_bare_name = !command.is_empty() && !command.contains('/');
        let exists = is_bare_name && built.folder.join(programs).join(command).exists();
        exists.then(|| format!("{FOLDER}/{programs}/{command}"))
    }

    /// Returns the newest version of a package.
    ///
    /// # Errors
    /// Fails if the registry does not name it within a minute.
    pub async fn latest(
        &self,
        name: &PackageName,
        source: &Source,
        context: &InstallContext,
    ) -> Result<String, Failure> {
        let asking = async {
            match source {
                Source::Node => npm::latest(self, name, context).await,
                Source::Python(_) => python::latest(self, name, context).await,
            }
        };
        within(LATEST_TIMEOUT, name, asking).await
    }

    /// Points the link of a server to its current version. People use the link, the program does not.
    pub fn link(&self, source: &Source, server: &ServerName, built: &PackageHandle) {
        let link = self.folders().link(source, server);
        if let Err(error) = store::link(&link, &built.folder) {
            tracing::warn!(link = %link.display(), %error, "cannot make the link of a package");
        }
    }

    /// Removes the folders that neither the catalog at the head of the log nor a process uses.
    pub async fn sweep(&self, projection: &Projection) {
        let Some(catalog) = store::newest_catalog(projection).await else {
            return;
        };
        for (store, folder) in [
            (&self.node, &self.folders().node),
            (&self.python, &self.folders().python),
        ] {
            remove_links(folder, &catalog);
            store.sweep(&catalog, projection).await;
        }
    }
}

fn recipe_digest(request: &PackageRequest<'_>, version: &str, lock: &str) -> String {
    let mut hash = Sha256::new();
    for part in [
        request.source.runtime(),
        request.name.as_str(),
        version,
        lock,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())[..DIGEST_LENGTH].to_owned()
}

/// Returns the text of a file if it exists and is not larger than `limit`.
fn read_at_most(file: &Path, limit: u64) -> Option<String> {
    let file = std::fs::File::open(file).ok()?;
    if file.metadata().ok()?.len() > limit {
        return None;
    }
    std::io::read_to_string(file.take(limit)).ok()
}

async fn within<T>(
    limit: Duration,
    name: &PackageName,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let minutes = limit.as_secs() / 60;
        Failure::new(
            Code::Timeout,
            format!("Package {name} was not ready after {minutes} minutes"),
        )
    })?
}

/// Ignores the progress of an installation.
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn phase(&self, _: &str) {}
    fn line(&self, _: &str) {}
}
