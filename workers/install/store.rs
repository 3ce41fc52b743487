//! What was built: a folder for each recipe, named by its digest, and a lock beside it.
//!
//! Whoever runs something of a folder holds its lock shared, whoever builds or removes it holds it alone: so also
//! processes that share a disk see each other, and a killed one holds nothing. A mark is written last: a folder
//! without it is somebody's leftover.

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

use super::diagnose::disk;
use crate::core::catalog::Catalog;
use crate::core::failure::Failure;
use crate::eventlog::projection::Projection;
use crate::telemetry::error::internal_error;

/// Between two looks at a lock that somebody else holds.
const LOOK: Duration = Duration::from_millis(50);
/// Looks at what was just built.
const AGAIN: usize = 100;
/// How long the log may take to be read.
const READ: Duration = Duration::from_secs(20);
/// Written last into a folder. It holds the path of the interpreter that the folder belongs to, if to one.
const MARK: &str = ".complete";
/// The interpreter of a virtual environment.
const INTERPRETER: &str = "bin/python";
/// What no recipe names and is kept all the same.
pub const KEPT: &str = "pip-";

pub struct PackageStore {
    place: PathBuf,
    /// Rung when something is not used any more.
    freed: Arc<Notify>,
}

/// A folder that stays while this is kept.
pub struct PackageHandle {
    pub folder: PathBuf,
    lock: Option<File>,
    freed: Arc<Notify>,
}

/// A folder for a moment. Dropped, it is gone.
pub struct ScratchDir {
    pub folder: PathBuf,
    lock: PathBuf,
    _lock: File,
}

impl PackageStore {
    pub fn new(place: PathBuf, freed: Arc<Notify>) -> Self {
        Self { place, freed }
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    fn lock(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}.lock"))
    }

    /// What was built, if it was.
    pub fn acquire(&self, name: &str) -> Option<PackageHandle> {
        let folder = self.folder(name);
        if !is_complete(&folder) {
            return None;
        }
        let lock = try_lock(&self.lock(name), false).ok()??;
        let in_use = PackageHandle {
            folder,
            lock: Some(lock),
            freed: self.freed.clone(),
        };
        is_complete(&in_use.folder).then_some(in_use)
    }

    /// What was built; where that was not done, `build` does it in its [`PackageStore::folder`]. Dropped in between, the next
    /// one begins anew.
    pub async fn acquire_or_build(
        &self,
        name: &str,
        build: BoxFuture<'_, Result<(), Failure>>,
    ) -> Result<PackageHandle, Failure> {
        let unusable = |error| disk(&self.place, &error);
        let folder = self.folder(name);
        loop {
            if let Some(taken) = self.acquire(name) {
                return Ok(taken);
            }
            fs::create_dir_all(&self.place).map_err(unusable)?;
            let Some(lock) = try_lock(&self.lock(name), true).map_err(unusable)? else {
                // Somebody builds it, or has begun to run it.
                tokio::time::sleep(LOOK).await;
                continue;
            };
            if is_complete(&folder) {
                continue;
            }
            let broken_off = NotifyOnDrop(&self.freed);
            remove(&folder).await.map_err(unusable)?;
            fs::create_dir(&folder).map_err(unusable)?;
            let built = match build.await {
                Ok(()) => finish(&folder).await.map_err(unusable),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = built {
                let _ = remove(&folder).await;
                let _ = fs::remove_file(self.lock(name));
                return Err(failure);
            }
            drop(lock);
            drop(broken_off);
            return self.again(name).await;
        }
    }

    /// What was just built; for a moment somebody may look whether it is needed.
    async fn again(&self, name: &str) -> Result<PackageHandle, Failure> {
        for _ in 0..AGAIN {
            if let Some(taken) = self.acquire(name) {
                return Ok(taken);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(Failure::unavailable(
            "What was built could not be kept; ask again",
        ))
    }

    pub fn scratch(&self) -> Result<ScratchDir, Failure> {
        let unusable = |error| disk(&self.place, &error);
        fs::create_dir_all(&self.place).map_err(unusable)?;
        let name = Uuid::now_v7().simple().to_string();
        let (folder, path) = (self.folder(&name), self.lock(&name));
        let lock = try_lock(&path, true)
            .map_err(unusable)?
            .ok_or_else(|| internal_error("a name of chance is taken"))?;
        fs::create_dir(&folder).map_err(unusable)?;
        Ok(ScratchDir {
            folder,
            lock: path,
            _lock: lock,
        })
    }

    /// Removes what no catalogue names and nobody uses, and what was left half-made.
    pub async fn sweep(&self, known: &Catalog, projection: &Projection) {
        for name in self.names() {
            let (folder, path) = (self.folder(&name), self.lock(&name));
            if is_complete(&folder) && (name.starts_with(KEPT) || is_named(known, &name)) {
                continue;
            }
            let Ok(Some(_lock)) = try_lock(&path, true) else {
                continue;
            };
            // Nobody uses it, and whoever has used it to prove an installation has told the log what came of that.
            if is_complete(&folder) {
                let Some(catalog) = read(projection).await else {
                    return;
                };
                if is_named(&catalog, &name) {
                    continue;
                }
            }
            match remove(&folder).await {
                Ok(()) => {
                    let _ = fs::remove_file(&path);
                    tracing::info!(folder = %folder.display(), "a package that nobody needs was removed");
                }
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "a package could not be removed")
                }
            }
        }
    }

    /// Of folders and of locks.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.place).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names
            .map(|name| name.trim_end_matches(".lock").to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Rings when a build has ended, also one that nobody waits for any more.
struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Drop for PackageHandle {
    fn drop(&mut self) {
        drop(self.lock.take());
        self.freed.notify_one();
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock);
    }
}

/// The catalogue at the head of the log.
pub async fn read(projection: &Projection) -> Option<Arc<Catalog>> {
    let head = projection.log().head().await.ok()?;
    let read = projection.wait_for(head, READ).await;
    read.then(|| Arc::clone(&projection.catalog()))
}

fn is_named(catalog: &Catalog, digest: &str) -> bool {
    let servers = catalog.servers();
    let mut recipes = servers
        .iter()
        .filter_map(|server| server.package.as_ref()?.package.recipe.as_ref());
    recipes.any(|recipe| recipe.digest == digest)
}

/// The lock, unless somebody else has it. The file may have been removed since it was opened: then it is another
/// one's no more.
fn try_lock(path: &Path, alone: bool) -> io::Result<Option<File>> {
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match if alone {
            file.try_lock()
        } else {
            file.try_lock_shared()
        } {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let held = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => {
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether it was finished, for an interpreter that is still the same.
fn is_complete(folder: &Path) -> bool {
    fs::read_to_string(folder.join(MARK)).is_ok_and(|mark| mark == interpreter(folder))
}

fn interpreter(folder: &Path) -> String {
    fs::canonicalize(folder.join(INTERPRETER))
        .map_or(String::new(), |path| path.display().to_string())
}

/// Everything on the disk first, the mark last.
async fn finish(folder: &Path) -> io::Result<()> {
    let folder = folder.to_owned();
    let finished = tokio::task::spawn_blocking(move || {
        let opened = File::open(&folder)?;
        rustix::fs::syncfs(&opened)?;
        let draft = folder.join(".complete.draft");
        let mut mark = File::create(&draft)?;
        mark.write_all(interpreter(&folder).as_bytes())?;
        mark.sync_all()?;
        fs::rename(&draft, folder.join(MARK))?;
        opened.sync_all()
    });
    finished.await.map_err(io::Error::other)?
}

/// Removes a folder that may not be there, and in which a killed installer may still write for a moment.
async fn remove(folder: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let doomed = folder.to_owned();
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(doomed))
            .await
            .map_err(io::Error::other)?;
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tries == 20 => return Err(error),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes a link to a folder, in one step also where there is one.
pub fn link(link: &Path, folder: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|now| now == folder) {
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

/// Removes the links of servers whose package is gone.
pub fn drop_links(folder: &Path, catalog: &Catalog) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours =
            fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(folder.join(".versions")));
        let kept = name
            .to_str()
            .and_then(|name| catalog.server(name))
            .is_some_and(|server| server.package.is_some());
        if ours && !kept {
            let _ = fs::remove_file(entry.path());
        }
    }
}
