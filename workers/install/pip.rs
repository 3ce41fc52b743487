//! Installs packages of PyPI with pip. pip resolves exact versions with their hashes, and each worker installs
//! them into a virtual environment of its own.
//!
//! One pip serves all environments of a Python, because an environment with its own pip takes longer
//! to make than most packages.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use futures::FutureExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::diagnose::{folder_failure, venv_failure};
use super::lockfile::{self, LockedPackage, not_from_the_index, version_of};
use super::pip_failure::pip_failure;
use super::process::{ExitKind, ProcessOutput};
use super::store::{PIP_PREFIX, PackageHandle};
use super::{InstallContext, Installer, process};
use crate::core::failure::{Code, Failure};
use crate::core::names::PackageName;

/// The options of every pip command. pip asks no questions, and stops after a few seconds without
/// a network.
const OPTIONS: [&str; 5] = [
    "--disable-pip-version-check",
    "--no-input",
    "--no-color",
    "--retries=2",
    "--progress-bar=off",
];

/// pip's report on what it would install.
#[derive(Deserialize)]
struct Report {
    install: Vec<ReportItem>,
}

#[derive(Deserialize)]
struct ReportItem {
    metadata: ItemMetadata,
    download_info: DownloadInfo,
    #[serde(default)]
    is_direct: bool,
}

#[derive(Deserialize)]
struct ItemMetadata {
    name: PackageName,
    version: String,
}

#[derive(Deserialize)]
struct DownloadInfo {
    #[serde(default)]
    archive_info: Option<ArchiveInfo>,
}

#[derive(Deserialize)]
struct ArchiveInfo {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl ReportItem {
    fn sha256(&self) -> Option<&str> {
        let archive = self.download_info.archive_info.as_ref()?;
        archive.hashes.get("sha256").map(String::as_str)
    }

    fn to_locked(&self) -> Result<LockedPackage, Failure> {
        if self.is_direct {
            return Err(not_from_the_index(self.metadata.name.as_str()));
        }
        Ok(LockedPackage {
            name: self.metadata.name.clone(),
            version: self.metadata.version.clone(),
            hashes: self.sha256().map(str::to_owned).into_iter().collect(),
        })
    }
}

/// Returns the exact version of a package, and a lockfile. `version` is the version that the caller asked for.
///
/// # Errors
/// Fails if pip cannot resolve the package.
pub(super) async fn resolve(
    installer: &Installer,
    name: &PackageName,
    version: Option<&str>,
    requirements: &[&str],
    context: &InstallContext,
) -> Result<(String, String), Failure> {
    let items = report(installer, name, version, requirements, &[], context).await?;
    let packages: Vec<_> = items
        .iter()
        .map(ReportItem::to_locked)
        .collect::<Result<_, _>>()?;
    let version = version_of(&packages, name).ok_or_else(|| {
        Failure::new(Code::UpstreamError, format!("pip would not install {name}"))
    })?;
    Ok((version, lockfile::to_text(&packages)))
}

/// Returns what pip would install for these requirements into an empty environment.
async fn report(
    installer: &Installer,
    name: &PackageName,
    version: Option<&str>,
    requirements: &[&str],
    options: &[&str],
    context: &InstallContext,
) -> Result<Vec<ReportItem>, Failure> {
    let pip = shared_pip(installer, context).await?;
    let scratch = installer.python.scratch()?;
    let path = scratch.folder.join("report.json");
    let path_text = path.to_string_lossy();
    let mut args = vec![
        "install",
        "--dry-run",
        "--ignore-installed",
        "--report",
        &path_text,
    ];
    args.extend(options.iter().chain(requirements));
    let output = run_pip(installer, context, &pip, &[], &args).await?;
    if output.exit != ExitKind::Success {
        return Err(pip_failure(name, version, &output));
    }
    let text = fs::read(&path).map_err(|error| folder_failure(&path, &error))?;
    let report: Report = serde_json::from_slice(&text).map_err(|error| {
        Failure::new(
            Code::UpstreamError,
            format!("pip's report cannot be read: {error}"),
        )
    })?;
    Ok(report.install)
}

/// Makes a virtual environment with the packages of the lockfile, in its final folder, because an
/// environment cannot be moved.
///
/// # Errors
/// Fails if the environment cannot be made, or if pip cannot install a package.
pub(super) async fn build(
    installer: &Installer,
    name: &PackageName,
    folder: &Path,
    lockfile: &str,
    context: &InstallContext,
) -> Result<(), Failure> {
    let pip = shared_pip(installer, context).await?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, lockfile).map_err(|error| folder_failure(folder, &error))?;
    make_venv(installer, context, folder, &["--without-pip"]).await?;
    let python = folder.join("bin/python");
    let target = ["--python", &python.to_string_lossy()];
    let requirements = requirements.to_string_lossy();
    let args = ["install", "--no-deps", "--requirement", &requirements];
    let output = run_pip(installer, context, &pip, &target, &args).await?;
    if output.exit == ExitKind::Success {
        Ok(())
    } else {
        Err(pip_failure(name, None, &output))
    }
}

/// Returns the newest version of a package.
///
/// # Errors
/// Fails if pip cannot ask the package index.
pub(super) async fn latest(
    installer: &Installer,
    name: &PackageName,
    context: &InstallContext,
) -> Result<String, Failure> {
    let requirements = [name.as_str()];
    let items = report(
        installer,
        name,
        None,
        &requirements,
        &["--no-deps"],
        context,
    )
    .await?;
    let newest = items.into_iter().next();
    newest.map(|item| item.metadata.version).ok_or_else(|| {
        Failure::new(
            Code::UpstreamError,
            format!("pip names no latest version of {name}"),
        )
    })
}

/// Returns the environment with the pip of this worker's Python.
///
/// # Errors
/// Fails if the environment cannot be made.
pub(super) async fn shared_pip(
    installer: &Installer,
    context: &InstallContext,
) -> Result<PackageHandle, Failure> {
    let digest = hex::encode(Sha256::digest(&installer.packages.python));
    let name = format!("{PIP_PREFIX}{}", &digest[..16]);
    let folder = installer.python.folder(&name);
    let build = async { make_venv(installer, context, &folder, &[]).await };
    installer
        .python
        .acquire_or_build(&name, build.boxed())
        .await
}

async fn make_venv(
    installer: &Installer,
    context: &InstallContext,
    folder: &Path,
    options: &[&str],
) -> Result<(), Failure> {
    let python = installer.packages.python.as_str();
    let folder = folder.to_string_lossy();
    let args: Vec<_> = ["-m", "venv"]
        .into_iter()
        .chain(options.iter().copied())
        .chain([&*folder])
        .collect();
    let output = process::run(installer, context, python, &args, &[])
        .await
        .map_err(python_cannot_run)?;
    match output.exit {
        ExitKind::Success => Ok(()),
        ExitKind::NotFound => Err(Failure::new(
            Code::UpstreamError,
            format!(
                "{python} was not found: packages of PyPI need Python 3.10 or newer; PYTHON_BIN says where it is"
            ),
        )),
        ExitKind::Failure => Err(venv_failure(python, &output)),
    }
}

/// Runs pip. Credentials of package indexes go through the environment, because other users of the
/// machine can read command lines.
///
/// # Errors
/// Fails if pip cannot be started.
pub(super) async fn run_pip(
    installer: &Installer,
    context: &InstallContext,
    pip: &PackageHandle,
    target: &[&str],
    args: &[&str],
) -> Result<ProcessOutput, Failure> {
    let python = pip.folder.join("bin/python");
    let mut all_args = vec!["-m", "pip"];
    all_args.extend(target.iter().chain(args.first()));
    all_args.extend(OPTIONS);
    all_args.extend(args.iter().skip(1));
    let mut variables = Vec::new();
    if let Some(url) = &context.indexes.url {
        variables.push(("PIP_INDEX_URL", url.as_str()));
    }
    if let Some(url) = &context.indexes.extra {
        variables.push(("PIP_EXTRA_INDEX_URL", url.as_str()));
    }
    process::run(
        installer,
        context,
        &python.to_string_lossy(),
        &all_args,
        &variables,
    )
    .await
    .map_err(python_cannot_run)
}

fn python_cannot_run(error: std::io::Error) -> Failure {
    Failure::new(
        Code::UpstreamError,
        format!("Python cannot be run: {error}"),
    )
}
