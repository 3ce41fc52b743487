//! Finds the uv of this worker: the program of `UV_BIN`, otherwise a uv on the `PATH`, otherwise a uv of a pinned version
//! that pip installs once beside the environments.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::diagnose::folder_failure;
use super::pip::{run_pip, shared_pip};
use super::process::{ExitKind, ProcessOutput};
use super::store::PackageHandle;
use super::{Indexes, InstallContext, Installer, process};
use crate::config::UvChoice;
use crate::core::failure::{Code, Failure};
use crate::time::clock::monotonic;

/// The version of uv that a worker installs.
const VERSION: &str = "0.13.9";
/// The wheels of this version: Linux and macOS on x86_64 and aarch64.
const WHEELS: [&str; 6] = [
    // manylinux_2_17_x86_64
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    // musllinux_1_1_x86_64
    "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    // manylinux_2_28_aarch64
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    // manylinux_2_17_aarch64, musllinux_1_1_aarch64
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    // macosx_10_12_x86_64
    "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    // macosx_11_0_arm64
    "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
];
/// The oldest uv that has all options of this module.
const OLDEST: [u32; 3] = [0, 11, 0];
/// The time limit for `uv --version`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);
/// The time limit for installing uv. Then pip installs the packages.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a worker that found no uv lets pip install before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The uv of this worker. Installations that need it at the same time wait for one search.
#[derive(Default)]
pub(super) struct UvProgram(Mutex<Search>);

#[derive(Default)]
enum Search {
    #[default]
    NotBegun,
    Found(Found),
    /// No uv can be had until this instant.
    Failed(Instant),
}

enum Found {
    OnMachine(PathBuf),
    /// The uv that this program has installed. The handle keeps its folder.
    Installed(PackageHandle),
}

/// The reason why the worker has no uv.
#[derive(Debug, thiserror::Error)]
enum NoUv {
    #[error("uv {VERSION} cannot be installed")]
    NotInstalled(#[source] Failure),
    #[error("uv {VERSION} was not installed within {} seconds", INSTALL_TIMEOUT.as_secs())]
    TooSlow,
    #[error("the program of UV_BIN is not there")]
    Missing,
    #[error("the program of UV_BIN is no uv of version {}.{} or newer", OLDEST[0], OLDEST[1])]
    NotUsable,
}

/// Returns the name of the folder of the uv that this version of the program installs.
pub(super) fn folder_name() -> String {
    format!("uv-{VERSION}-{}", std::env::consts::ARCH)
}

impl Found {
    fn path(&self) -> PathBuf {
        match self {
            Self::OnMachine(path) => path.clone(),
            Self::Installed(handle) => handle.folder.join("bin/uv"),
        }
    }
}

impl UvProgram {
    /// Returns the path of a uv, and installs uv if the machine has none. Returns `None` if pip installs the packages.
    pub(super) async fn path(
        &self,
        choice: &UvChoice,
        installer: &Installer,
        context: &InstallContext,
    ) -> Option<PathBuf> {
        let mut search = self.0.lock().await;
        match &*search {
            Search::Found(found) if is_program(&found.path()) => return Some(found.path()),
            Search::Failed(until) if monotonic() < *until => return None,
            _ => {}
        }
        match find(choice, installer, context).await {
            Ok(found) => {
                let path = found.path();
                tracing::info!(program = %path.display(), "Python packages are installed with uv");
                *search = Search::Found(found);
                Some(path)
            }
            Err(error) => {
                *search = Search::Failed(monotonic() + RETRY_AFTER);
                let error: &dyn std::error::Error = &error;
                let cause = error.source().map(ToString::to_string);
                tracing::warn!(%error, cause, "Python packages are installed with pip");
                context
                    .progress
                    .line("pip installs the package, because there is no uv");
                None
            }
        }
    }
}

async fn find(
    choice: &UvChoice,
    installer: &Installer,
    context: &InstallContext,
) -> Result<Found, NoUv> {
    let path = installer.packages.path.as_str();
    match choice {
        UvChoice::Program(program) => {
            let path = find_program(program, path).ok_or(NoUv::Missing)?;
            if is_usable(installer, context, &path).await {
                Ok(Found::OnMachine(path))
            } else {
                Err(NoUv::NotUsable)
            }
        }
        UvChoice::Any => {
            if let Some(path) = find_program("uv", path)
                && is_usable(installer, context, &path).await
            {
                return Ok(Found::OnMachine(path));
            }
            let installing = tokio::time::timeout(INSTALL_TIMEOUT, install(installer, context));
            let handle = installing.await.map_err(|_| NoUv::TooSlow)?;
            handle.map(Found::Installed).map_err(NoUv::NotInstalled)
        }
    }
}

/// Returns whether a program is a uv with all the options that the worker needs.
async fn is_usable(installer: &Installer, context: &InstallContext, path: &Path) -> bool {
    let program = path.to_string_lossy();
    let quiet = InstallContext {
        progress: Arc::new(super::NoProgress),
        ..context.clone()
    };
    let running = process::run(installer, &quiet, &program, &["--version"], &[]);
    let output = tokio::time::timeout(VERSION_TIMEOUT, running).await;
    matches!(output, Ok(Ok(output)) if is_new_enough(&output))
}

fn is_new_enough(output: &ProcessOutput) -> bool {
    output.exit == ExitKind::Success && version(output).is_some_and(|found| found >= OLDEST)
}

/// Returns the version in the output of `uv --version`, which is `uv 0.13.9 (x86_64-unknown-linux-gnu)`.
fn version(output: &ProcessOutput) -> Option<[u32; 3]> {
    let text = std::str::from_utf8(&output.stdout).ok()?;
    let (_, text) = text.split_once("uv ")?;
    let mut numbers = text.split_whitespace().next()?.splitn(3, '.');
    let mut number = || {
        let text = numbers.next()?;
        let end = text.find(|character: char| !character.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().ok()
    };
    Some([number()?, number()?, number()?])
}

/// Installs uv with pip, from the package index of this worker. Workers that share the folder install it once.
async fn install(
    installer: &Installer,
    context: &InstallContext,
) -> Result<PackageHandle, Failure> {
    let name = folder_name();
    if let Some(handle) = installer.python.acquire(&name) {
        return Ok(handle);
    }
    // The index of a package is the choice of a user, and uv installs the packages of all users.
    let context = InstallContext {
        indexes: Arc::new(Indexes::default()),
        ..context.clone()
    };
    context.progress.line("installing uv once");
    let folder = installer.python.folder(&name);
    let build = async {
        let pip = shared_pip(installer, &context).await?;
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, requirement()).map_err(|error| folder_failure(&folder, &error))?;
        let (target, requirements) = (folder.to_string_lossy(), requirements.to_string_lossy());
        let args = [
            "install",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--target",
            &target,
            "--requirement",
            &requirements,
        ];
        let output = run_pip(installer, &context, &pip, &[], &args).await?;
        if output.exit == ExitKind::Success && is_program(&folder.join("bin/uv")) {
            return Ok(());
        }
        let failure = Failure::new(Code::UpstreamError, "pip could not install uv");
        Err(failure.with_details(Some(output.lines.join("\n"))))
    };
    installer
        .python
        .acquire_or_build(&name, build.boxed())
        .await
}

/// Returns the requirement of uv with the hashes of its wheels.
fn requirement() -> String {
    let hashes: String = WHEELS
        .iter()
        .map(|hash| format!(" --hash=sha256:{hash}"))
        .collect();
    format!("uv=={VERSION}{hashes}\n")
}

/// Returns the path of a program, as a shell finds it.
pub(super) fn find_program(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        let absolute = std::path::absolute(program).ok()?;
        return is_program(&absolute).then_some(absolute);
    }
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_uv_is_parsed() {
        for (text, expected) in [
            ("uv 0.13.9 (x86_64-unknown-linux-gnu)\n", Some([0, 13, 9])),
            ("uv 0.11.0\n", Some([0, 11, 0])),
            ("uv 1.0.0-rc.1\n", Some([1, 0, 0])),
            ("uv\n", None),
            ("something else\n", None),
        ] {
            let output = ProcessOutput {
                stdout: text.into(),
                lines: vec![],
                exit: ExitKind::Success,
            };
            assert_eq!(version(&output), expected, "{text}");
        }
    }

    #[test]
    fn the_requirement_of_uv_names_the_hash_of_each_wheel() {
        let text = requirement();
        assert!(text.starts_with(&format!("uv=={VERSION} --hash=sha256:")));
        assert_eq!(text.matches("--hash=sha256:").count(), WHEELS.len());
        assert_eq!(text.lines().count(), 1);
        assert!(WHEELS.iter().all(|hash| hash.len() == 64));
    }

    #[test]
    fn a_program_is_found_on_the_path() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let program = folder.path().join("uv");
        let path = format!("relative:/no/such:{}", folder.path().display());
        fs::write(&program, "").expect("a file");
        assert_eq!(find_program("uv", &path), None);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&program, executable).expect("a mode");
        assert_eq!(find_program("uv", &path), Some(program.clone()));
        let given = program.to_string_lossy();
        assert_eq!(find_program(&given, ""), Some(program.clone()));
        assert_eq!(find_program("uv", ""), None);
    }
}
