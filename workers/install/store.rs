//! Keeps what was built: one folder for each recipe, named by its digest, and a lock file beside it.
//!
//! A process that runs something of a folder holds its lock shared. A process that builds or removes
//! the folder holds the lock exclusively. This also works between processes that share a disk, and the
//! locks of a killed process are free. The mark is written last, so a folder without a mark is
//! incomplete.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use futures::future::BoxFuture;
use tokio::sync::Notify;
use uuid::Uuid;

use super::diagnose::folder_failure;
use super::uv_program;
use crate::core::catalog::Catalog;
use crate::core::failure::Failure;
use crate::eventlog::projection::Projection;
use crate::telemetry::error::internal_error;
use crate::time::retry::{FOLDER_REMOVAL, PACKAGE_LOCK};

/// The folder of the recipes, within the folder of the packages.
pub(super) const VERSIONS_FOLDER: &str = ".versions";
/// The beginning of the name of a folder that no recipe names and that is kept.
pub(super) const PIP_PREFIX: &str = "pip-";
/// How long the projection may take to reach the head of the log.
const CATCH_UP: Duration = Duration::from_secs(20);
/// The last file of a build, with the path of the interpreter that the folder needs, if any.
const MARK: &str = ".complete";
/// The interpreter of a virtual environment.
const INTERPRETER: &str = "bin/python";

/// The folders of one runtime.
pub(super) struct PackageStore {
    root: PathBuf,
    released: Arc<Notify>,
}

/// A complete folder, which stays while the handle exists.
pub struct PackageHandle {
    pub folder: PathBuf,
    lock: Option<File>,
    released: Arc<Notify>,
}

/// The right to a folder: to use it, or to build it.
enum FolderAccess {
    Complete(PackageHandle),
    ToBuild(File),
}

/// A temporary folder. Dropping the guard removes the folder.
pub(super) struct ScratchDir {
    pub folder: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl PackageStore {
    /// Returns the store in `root`, which notifies `released` when a folder has no user any more.
    pub(super) fn new(root: PathBuf, released: Arc<Notify>) -> Self {
        Self { root, released }
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.lock"))
    }

    /// Returns a folder, if it is complete.
    pub(super) fn acquire(&self, name: &str) -> Option<PackageHandle> {
        let folder = self.folder(name);
        if !is_complete(&folder) {
            return None;
        }
        let lock = try_lock(&self.lock_path(name), LockMode::Shared).ok()??;
        let handle = PackageHandle {
            folder,
            lock: Some(lock),
            released: self.released.clone(),
        };
        // Another process may have removed the folder before this process got the lock.
        is_complete(&handle.folder).then_some(handle)
    }

    /// Returns a folder. If it is not complete, `build` fills [`PackageStore::folder`] first. If the
    /// future is dropped, the next build starts from the beginning.
    ///
    /// # Errors
    /// Fails if the disk cannot be used, or if the build fails.
    pub(super) async fn acquire_or_build(
        &self,
        name: &str,
        build: BoxFuture<'_, Result<(), Failure>>,
    ) -> Result<PackageHandle, Failure> {
        let lock = match self.acquire_or_lock(name).await? {
            FolderAccess::Complete(handle) => return Ok(handle),
            FolderAccess::ToBuild(lock) => lock,
        };
        let notify = NotifyOnDrop(&self.released);
        if let Err(failure) = self.build_folder(name, build).await {
            // The sweep removes what cannot be removed now.
            let _ = remove_folder(&self.folder(name)).await;
            let _ = fs::remove_file(self.lock_path(name));
            return Err(failure);
        }
        drop(lock);
        drop(notify);
        self.acquire_when_free(name).await
    }

    /// Waits until the folder is complete, or until this process may build it.
    async fn acquire_or_lock(&self, name: &str) -> Result<FolderAccess, Failure> {
        let failure = |error| folder_failure(&self.root, &error);
        let folder = self.folder(name);
        let mut pauses = PACKAGE_LOCK.pauses();
        loop {
            if let Some(handle) = self.acquire(name) {
                return Ok(FolderAccess::Complete(handle));
            }
            fs::create_dir_all(&self.root).map_err(failure)?;
            let lock = try_lock(&self.lock_path(name), LockMode::Exclusive).map_err(failure)?;
            match lock {
                Some(_) if is_complete(&folder) => {}
                Some(lock) => return Ok(FolderAccess::ToBuild(lock)),
                // Another process builds the folder, or has just begun to use it.
                None => pauses.wait().await,
            }
        }
    }

    async fn build_folder(
        &self,
        name: &str,
        build: BoxFuture<'_, Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let failure = |error| folder_failure(&self.root, &error);
        let folder = self.folder(name);
        remove_folder(&folder).await.map_err(failure)?;
        fs::create_dir(&folder).map_err(failure)?;
        build.await?;
        write_mark(&folder).await.map_err(failure)
    }

    /// Returns a complete folder. Another process may hold the exclusive lock for a moment, because it
    /// looks whether the folder is needed.
    async fn acquire_when_free(&self, name: &str) -> Result<PackageHandle, Failure> {
        let mut attempts = PACKAGE_LOCK.start();
        loop {
            if let Some(handle) = self.acquire(name) {
                return Ok(handle);
            }
            if !attempts.wait().await {
                break;
            }
        }
        Err(Failure::unavailable(
            "Another process removed the package after its build; retry",
        ))
    }

    /// Makes a temporary folder.
    ///
    /// # Errors
    /// Fails if the disk cannot be used.
    pub(super) fn scratch(&self) -> Result<ScratchDir, Failure> {
        let failure = |error| folder_failure(&self.root, &error);
        fs::create_dir_all(&self.root).map_err(failure)?;
        let name = Uuid::now_v7().simple().to_string();
        let lock_path = self.lock_path(&name);
        let lock = try_lock(&lock_path, LockMode::Exclusive)
            .map_err(failure)?
            .ok_or_else(|| internal_error("the lock of a new folder is taken"))?;
        let folder = self.folder(&name);
        fs::create_dir(&folder).map_err(failure)?;
        Ok(ScratchDir {
            folder,
            lock_path,
            _lock: lock,
        })
    }

    /// Removes the incomplete folders, and the folders that neither `catalog` nor a process uses.
    pub(super) async fn sweep(&self, catalog: &Catalog, projection: &Projection) {
        for name in self.names() {
            let folder = self.folder(&name);
            let is_tool = name.starts_with(PIP_PREFIX) || name == uv_program::folder_name();
            let is_needed = is_tool || is_named(catalog, &name);
            if is_needed && is_complete(&folder) {
                continue;
            }
            let Ok(Some(_lock)) = try_lock(&self.lock_path(&name), LockMode::Exclusive) else {
                continue;
            };
            // The last user has released the folder. If it has proven an installation, then the log
            // holds the result now.
            if is_complete(&folder) {
                let Some(newest) = newest_catalog(projection).await else {
                    return;
                };
                if is_named(&newest, &name) {
                    continue;
                }
            }
            self.remove(&name).await;
        }
    }

    /// Removes a folder and its lock file. The caller holds the exclusive lock.
    async fn remove(&self, name: &str) {
        let folder = self.folder(name);
        match remove_folder(&folder).await {
            Ok(()) => {
                let _ = fs::remove_file(self.lock_path(name));
                tracing::info!(folder = %folder.display(), "unused package removed");
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove a package");
            }
        }
    }

    /// Returns the names of all folders and lock files.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .map(|name| name.trim_end_matches(".lock").to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Notifies when a build ends, also when its future is dropped.
struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Drop for PackageHandle {
    fn drop(&mut self) {
        // The lock ends before the notification, because the sweep needs it.
        drop(self.lock.take());
        self.released.notify_one();
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Returns the catalog at the head of the log, or `None` if the store is unavailable.
pub(super) async fn newest_catalog(projection: &Projection) -> Option<Arc<Catalog>> {
    let head = projection.log().head().await.ok()?;
    let is_read = projection.wait_for(head, CATCH_UP).await;
    is_read.then(|| Arc::clone(&projection.catalog()))
}

fn is_named(catalog: &Catalog, digest: &str) -> bool {
    catalog
        .servers()
        .iter()
        .filter_map(|server| server.package.as_ref()?.package.recipe.as_ref())
        .any(|recipe| recipe.digest == digest)
}

#[derive(Clone, Copy)]
enum LockMode {
    Shared,
    Exclusive,
}

/// Returns the lock, unless another process holds it. The lock file may be removed between opening and
/// locking, and then the lock is worth nothing and the function tries again.
fn try_lock(path: &Path, mode: LockMode) -> io::Result<Option<File>> {
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        let locked = match mode {
            LockMode::Shared => file.try_lock_shared(),
            LockMode::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if is_same_file(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Returns whether `path` still leads to this open file.
fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(current) => Ok((current.dev(), current.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether a folder was built to its end, for the interpreter that it still has.
fn is_complete(folder: &Path) -> bool {
    fs::read_to_string(folder.join(MARK)).is_ok_and(|mark| mark == interpreter(folder))
}

fn interpreter(folder: &Path) -> String {
    fs::canonicalize(folder.join(INTERPRETER))
        .map_or(String::new(), |path| path.display().to_string())
}

/// Writes everything to the disk first, and the mark last.
async fn write_mark(folder: &Path) -> io::Result<()> {
    let folder = folder.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let opened = File::open(&folder)?;
        rustix::fs::syncfs(&opened)?;
        let draft = folder.join(".complete.draft");
        let mut mark = File::create(&draft)?;
        mark.write_all(interpreter(&folder).as_bytes())?;
        mark.sync_all()?;
        fs::rename(&draft, folder.join(MARK))?;
        opened.sync_all()
    });
    written.await.map_err(io::Error::other)?
}

/// Removes a folder, if it exists. A killed installer may still write into it for a moment.
async fn remove_folder(folder: &Path) -> io::Result<()> {
    let mut attempts = FOLDER_REMOVAL.start();
    loop {
        let path = folder.to_owned();
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(path))
            .await
            .map_err(io::Error::other)?;
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                if !attempts.wait().await {
                    return Err(error);
                }
            }
        }
    }
}

/// Points a link to a folder. An existing link is replaced in one step.
///
/// # Errors
/// Fails if the link cannot be written.
pub(super) fn link(link: &Path, folder: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    let parent = link.parent().unwrap_or(link);
    fs::create_dir_all(parent)?;
    let draft = parent.join(format!(".{}", Uuid::now_v7().simple()));
    std::os::unix::fs::symlink(folder, &draft)?;
    fs::rename(&draft, link).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

/// Removes the links of servers that have no package any more.
pub(super) fn remove_links(folder: &Path, catalog: &Catalog) {
    let versions = folder.join(VERSIONS_FOLDER);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&versions));
        let name = entry.file_name();
        let has_package = name
            .to_str()
            .and_then(|name| catalog.server(name))
            .is_some_and(|server| server.package.is_some());
        if is_ours && !has_package {
            let _ = fs::remove_file(entry.path());
        }
    }
}
