//! Installs packages of PyPI. uv does the work if the worker has it and if the settings of pip have a translation. pip
//! does everything else. Both write the same lockfiles, so each worker chooses for itself.

use std::fs;
use std::path::Path;

use super::console_scripts::choose_script;
use super::diagnose::folder_failure;
use super::uv::{Uv, UvError};
use super::uv_program::find_program;
use super::uv_settings::PipSituation;
use super::{InstallContext, Installer, PackageRequest, pip};
use crate::core::failure::Failure;
use crate::core::model::package::{EntryPoint, FOLDER, PythonOptions};
use crate::core::names::PackageName;

/// The folder of uv's cache, within the folder of the environments.
const UV_CACHE: &str = ".uv-cache";

/// Returns the exact version of a package, and a lockfile: the requirements of the package and of all that it needs.
///
/// # Errors
/// Fails if the package cannot be resolved.
pub(super) async fn resolve(
    installer: &Installer,
    request: &PackageRequest<'_>,
    python: &PythonOptions,
    context: &InstallContext,
) -> Result<(String, String), Failure> {
    let version = request.version.filter(|version| *version != "latest");
    let requirement = match version {
        Some(version) => format!("{}=={version}", request.name),
        None => request.name.to_string(),
    };
    let requirements: Vec<&str> = [requirement.as_str()]
        .into_iter()
        .chain(python.dependencies.iter().map(String::as_str))
        .collect();
    // uv reads requirements from a file, in which such a text can be an option.
    let has_options = requirements.iter().any(|text| text.contains(" -"));
    if !has_options && let Some(uv) = uv(installer, context).await {
        let resolved = uv.resolve(request.name, version, &requirements, &[]).await;
        if let Some(result) = unless_unclear(resolved, context) {
            return result;
        }
    }
    pip::resolve(installer, request.name, version, &requirements, context).await
}

/// Makes a virtual environment with the packages of the lockfile, in its final folder, because an environment cannot be
/// moved.
///
/// # Errors
/// Fails if the environment cannot be made, or if a package cannot be installed.
pub(super) async fn build(
    installer: &Installer,
    name: &PackageName,
    folder: &Path,
    lockfile: &str,
    context: &InstallContext,
) -> Result<(), Failure> {
    if let Some(uv) = uv(installer, context).await {
        let built = uv.build(name, folder, lockfile).await;
        if let Some(result) = unless_unclear(built, context) {
            return result;
        }
        empty(folder).await?;
    }
    pip::build(installer, name, folder, lockfile, context).await
}

/// Returns the newest version of a package.
///
/// # Errors
/// Fails if the package index does not name it.
pub(super) async fn latest(
    installer: &Installer,
    name: &PackageName,
    context: &InstallContext,
) -> Result<String, Failure> {
    if let Some(uv) = uv(installer, context).await {
        let latest = uv.latest(name).await;
        if let Some(result) = unless_unclear(latest, context) {
            return result;
        }
    }
    pip::latest(installer, name, context).await
}

/// Returns the command line that starts a package: the module that the user has named, otherwise a console script of the
/// package.
///
/// # Errors
/// Fails if the user has named no module, and the package has several console scripts or none.
pub(super) fn entry_point(
    name: &PackageName,
    python: &PythonOptions,
    venv: &Path,
) -> Result<EntryPoint, Failure> {
    let Some(module) = &python.module else {
        let script = choose_script(name, venv)?;
        return Ok(EntryPoint {
            command: format!("{FOLDER}/bin/{script}"),
            args: python.args.clone(),
        });
    };
    let run_module = ["-u", "-m", module].map(str::to_owned);
    Ok(EntryPoint {
        command: format!("{FOLDER}/bin/python"),
        args: run_module.into_iter().chain(python.args.clone()).collect(),
    })
}

/// Returns the uv of this worker with the settings of this installation. Returns `None` if pip installs.
async fn uv<'a>(installer: &'a Installer, context: &'a InstallContext) -> Option<Uv<'a>> {
    let packages = &installer.packages;
    let choice = packages.uv.as_ref()?;
    // pip describes a missing Python.
    let python = find_program(&packages.python, &packages.path)?;
    let situation = PipSituation {
        variables: &packages.env,
        home: packages.home.as_deref(),
        indexes: &context.indexes,
        cache: &packages.folders.python.join(UV_CACHE),
    };
    let settings = match situation.uv_settings() {
        Ok(settings) => settings,
        Err(reason) => {
            tracing::info!(%reason, "a Python package is installed with pip");
            return None;
        }
    };
    let program = installer.uv.path(choice, installer, context).await?;
    Some(Uv {
        installer,
        context,
        program: program.to_str()?.to_owned(),
        python: python.to_str()?.to_owned(),
        settings,
    })
}

/// Returns the result of uv. Returns `None` if uv has failed for a reason that only pip can explain.
fn unless_unclear<T>(
    result: Result<T, UvError>,
    context: &InstallContext,
) -> Option<Result<T, Failure>> {
    match result {
        Ok(value) => Some(Ok(value)),
        Err(UvError::Clear(failure)) => Some(Err(failure)),
        Err(UvError::Unclear(output)) => {
            tracing::warn!(
                output,
                "uv has failed for an unknown reason; pip repeats its work"
            );
            context.progress.line("uv has failed; pip repeats its work");
            None
        }
    }
}

/// Removes what a failed attempt has left in a folder.
async fn empty(folder: &Path) -> Result<(), Failure> {
    let path = folder.to_owned();
    let emptied = tokio::task::spawn_blocking(move || {
        fs::remove_dir_all(&path)?;
        fs::create_dir(&path)
    });
    emptied
        .await
        .map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|error| folder_failure(folder, &error))
}
