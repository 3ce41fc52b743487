//! Packages of PyPI: resolved by pip to exact versions with their hashes, and installed from those into a virtual
//! environment of their own.
//!
//! One pip serves all environments of a Python: making one with pip inside takes longer than most packages do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use futures::FutureExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::diagnose::disk;
use super::process::{ExitKind, ProcessOutput};
use super::store::{KEPT, PackageHandle};
use super::{InstallContext, Installer, PackageRequest, diagnose, process};
use crate::core::failure::{Code, Failure};
use crate::core::model::package::{EntryPoint, FOLDER, PythonOptions};
use crate::core::names::PackageName;

/// Nobody is there to be asked, and without a network it ends soon.
const OPTIONS: [&str; 5] = [
    "--disable-pip-version-check",
    "--no-input",
    "--no-color",
    "--retries=2",
    "--progress-bar=off",
];

/// What pip would install.
#[derive(Deserialize)]
struct Report {
    install: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    download_info: DownloadInfo,
    #[serde(default)]
    is_direct: bool,
}

#[derive(Deserialize)]
struct Metadata {
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

/// The exact version, and requirements for it and all it needs.
pub async fn resolve(
    installer: &Installer,
    wanted: &PackageRequest<'_>,
    python: &PythonOptions,
    around: &InstallContext,
) -> Result<(String, String), Failure> {
    let version = wanted.version.filter(|version| *version != "latest");
    let requirement = match version {
        Some(version) => format!("{}=={version}", wanted.name),
        None => wanted.name.to_string(),
    };
    let requirements: Vec<&str> = [requirement.as_str()]
        .into_iter()
        .chain(python.dependencies.iter().map(String::as_str))
        .collect();
    let items = report(installer, wanted.name, version, &requirements, &[], around).await?;
    let version = items
        .iter()
        .find(|item| is(&item.metadata.name, wanted.name))
        .map(|item| item.metadata.version.clone());
    let nothing = || {
        Failure::new(
            Code::UpstreamError,
            format!("pip would not install {}", wanted.name),
        )
    };
    Ok((version.ok_or_else(nothing)?, pinned(&items)?))
}

fn is(found: &PackageName, wanted: &PackageName) -> bool {
    let normal = |name| crate::core::model::package::python_name(name).ok();
    normal(found).is_some() && normal(found) == normal(wanted)
}

/// Requirements in the order of their names; with hashes where every one has its own.
fn pinned(items: &[Item]) -> Result<String, Failure> {
    if let Some(item) = items.iter().find(|item| item.is_direct) {
        let direct = format!(
            "{} comes from a URL and not from the package index; that cannot be installed",
            item.metadata.name
        );
        return Err(Failure::new(Code::UpstreamError, direct));
    }
    let hash = |item: &Item| {
        item.download_info
            .archive_info
            .as_ref()?
            .hashes
            .get("sha256")
            .cloned()
    };
    let hashed = items.iter().all(|item| hash(item).is_some());
    let line = |item: &Item| {
        let pin = format!("{}=={}", item.metadata.name, item.metadata.version);
        match hash(item).filter(|_| hashed) {
            Some(hash) => format!("{pin} --hash=sha256:{hash}\n"),
            None => format!("{pin}\n"),
        }
    };
    let mut lines: Vec<_> = items.iter().map(line).collect();
    lines.sort();
    Ok(lines.concat())
}

/// What pip would install for these requirements into an empty environment.
async fn report(
    installer: &Installer,
    name: &PackageName,
    version: Option<&str>,
    requirements: &[&str],
    options: &[&str],
    around: &InstallContext,
) -> Result<Vec<Item>, Failure> {
    let tools = tools(installer, around).await?;
    let scratch = installer.python.scratch()?;
    let path = scratch.folder.join("report.json");
    let told = path.to_string_lossy();
    let mut args = vec![
        "install",
        "--dry-run",
        "--ignore-installed",
        "--report",
        &told,
    ];
    args.extend(options.iter().chain(requirements));
    let ended = pip(installer, around, &tools, &[], &args).await?;
    if ended.how != ExitKind::Well {
        return Err(diagnose::pip(name, version, &ended));
    }
    let text = fs::read(&path).map_err(|error| disk(&path, &error))?;
    let broken = |error| {
        Failure::new(
            Code::UpstreamError,
            format!("pip's report cannot be read: {error}"),
        )
    };
    let report: Report = serde_json::from_slice(&text).map_err(broken)?;
    Ok(report.install)
}

/// An environment made in its place, since it cannot be moved, and in it exactly what the lock says.
pub async fn build(
    installer: &Installer,
    name: &PackageName,
    folder: &Path,
    lock: &str,
    around: &InstallContext,
) -> Result<(), Failure> {
    let tools = tools(installer, around).await?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, lock).map_err(|error| disk(folder, &error))?;
    venv(installer, around, folder, &["--without-pip"]).await?;
    let (python, requirements) = (folder.join("bin/python"), requirements.to_string_lossy());
    let into = ["--python", &python.to_string_lossy()];
    let ended = pip(
        installer,
        around,
        &tools,
        &into,
        &["install", "--no-deps", "--requirement", &requirements],
    )
    .await?;
    if ended.how == ExitKind::Well {
        Ok(())
    } else {
        Err(diagnose::pip(name, None, &ended))
    }
}

pub async fn latest(
    installer: &Installer,
    name: &PackageName,
    around: &InstallContext,
) -> Result<String, Failure> {
    let items = report(
        installer,
        name,
        None,
        &[name.as_str()],
        &["--no-deps"],
        around,
    )
    .await?;
    let nothing = || {
        Failure::new(
            Code::UpstreamError,
            format!("pip names no latest version of {name}"),
        )
    };
    items
        .into_iter()
        .next()
        .map(|item| item.metadata.version)
        .ok_or_else(nothing)
}

pub fn entry(python: &PythonOptions) -> Result<EntryPoint, Failure> {
    let missing = || {
        Failure::invalid(
            "pythonModule is missing: what python -m runs; or say with command and args what is started",
        )
    };
    let module = python.module.clone().ok_or_else(missing)?;
    let args = ["-u".to_owned(), "-m".to_owned(), module]
        .into_iter()
        .chain(python.args.iter().cloned());
    Ok(EntryPoint {
        command: format!("{FOLDER}/bin/python"),
        args: args.collect(),
    })
}

/// This Python's pip.
async fn tools(installer: &Installer, around: &InstallContext) -> Result<PackageHandle, Failure> {
    let digest = hex::encode(Sha256::digest(&installer.packages.python));
    let name = format!("{KEPT}{}", &digest[..16]);
    let folder = installer.python.folder(&name);
    let build = async { venv(installer, around, &folder, &[]).await };
    installer
        .python
        .acquire_or_build(&name, build.boxed())
        .await
}

async fn venv(
    installer: &Installer,
    around: &InstallContext,
    folder: &Path,
    options: &[&str],
) -> Result<(), Failure> {
    let (python, folder) = (installer.packages.python.as_str(), folder.to_string_lossy());
    let args: Vec<_> = ["-m", "venv"]
        .into_iter()
        .chain(options.iter().copied())
        .chain([&*folder])
        .collect();
    let ended = process::run(installer, around, python, &args, &[])
        .await
        .map_err(cannot)?;
    match ended.how {
        ExitKind::Well => Ok(()),
        ExitKind::Missing => {
            let missing = format!(
                "{python} was not found: packages of PyPI need Python 3.10 or newer; PYTHON_BIN says where it is"
            );
            Err(Failure::new(Code::UpstreamError, missing))
        }
        ExitKind::Badly => Err(diagnose::venv(python, &ended)),
    }
}

/// Credentials go the way of the environment, which other users cannot read.
async fn pip(
    installer: &Installer,
    around: &InstallContext,
    tools: &PackageHandle,
    into: &[&str],
    args: &[&str],
) -> Result<ProcessOutput, Failure> {
    let python = tools.folder.join("bin/python");
    let mut all = vec!["-m", "pip"];
    all.extend(into.iter().chain(args.first()));
    all.extend(OPTIONS);
    all.extend(args.iter().skip(1));
    let mut env = Vec::new();
    env.extend(
        around
            .indexes
            .url
            .as_ref()
            .map(|url| ("PIP_INDEX_URL", url.as_str())),
    );
    env.extend(
        around
            .indexes
            .extra
            .as_ref()
            .map(|url| ("PIP_EXTRA_INDEX_URL", url.as_str())),
    );
    process::run(installer, around, &python.to_string_lossy(), &all, &env)
        .await
        .map_err(cannot)
}

fn cannot(error: std::io::Error) -> Failure {
    Failure::new(
        Code::UpstreamError,
        format!("Python cannot be run: {error}"),
    )
}
