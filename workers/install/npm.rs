//! Installs packages of npm. npm locks a project with one dependency, and each worker installs
//! exactly what the lockfile names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::diagnose::folder_failure;
use super::npm_failure::npm_failure;
use super::process::{ExitKind, ProcessOutput};
use super::{InstallContext, Installer, PackageRequest, process};
use crate::core::failure::{Code, Failure};
use crate::core::model::package::{EntryPoint, FOLDER};
use crate::core::names::PackageName;

/// The options of every npm command. npm reports each request as a line of progress, and stops
/// after a few seconds without a network.
const OPTIONS: [&str; 8] = [
    "--no-audit",
    "--no-fund",
    "--no-progress",
    "--no-update-notifier",
    "--loglevel=http",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=4000",
];
const LOCKFILE: &str = "package-lock.json";

/// Returns the exact version of a package, and npm's lockfile for it.
///
/// # Errors
/// Fails if npm cannot resolve the package.
pub(super) async fn resolve(
    installer: &Installer,
    request: &PackageRequest<'_>,
    context: &InstallContext,
) -> Result<(String, String), Failure> {
    let scratch = installer.node.scratch()?;
    let version = request.version.unwrap_or("latest");
    let manifest = project_manifest(request.name, version);
    write_file(&scratch.folder, "package.json", &manifest.to_string())?;
    let args = [
        "install",
        "--package-lock-only",
        "--package-lock",
        "--ignore-scripts",
    ];
    let output = run_npm(installer, context, &args, &scratch.folder).await?;
    if output.exit != ExitKind::Success {
        return Err(npm_failure(request.name, request.version, &output));
    }
    let lockfile = fs::read(scratch.folder.join(LOCKFILE))
        .map_err(|error| folder_failure(&scratch.folder, &error))?;
    normalize_lockfile(&lockfile, request.name).ok_or_else(|| {
        Failure::new(
            Code::UpstreamError,
            format!(
                "npm wrote no lock for {}; is it npm 7 or newer?",
                request.name
            ),
        )
        .with_details(Some(output.lines.join("\n")))
    })
}

/// Returns the locked version, and the lockfile as if exactly that version had been requested.
fn normalize_lockfile(lockfile: &[u8], name: &PackageName) -> Option<(String, String)> {
    let mut lockfile: Value = serde_json::from_slice(lockfile).ok()?;
    let version = lockfile["packages"][format!("node_modules/{name}")]["version"]
        .as_str()?
        .to_owned();
    // The name is the name of the scratch folder, which must not change the digest.
    lockfile
        .as_object_mut()?
        .insert("name".into(), "package".into());
    let packages = lockfile["packages"].as_object_mut()?;
    packages.insert(String::new(), project_manifest(name, &version));
    remove_missing_optionals(packages);
    Some((version, lockfile.to_string()))
}

/// Removes the optional dependencies that the lockfile does not contain. `npm install` skips optional
/// packages that the registry does not offer, but `npm ci` refuses a lockfile that still names them.
fn remove_missing_optionals(packages: &mut Map<String, Value>) {
    let paths: Vec<String> = packages.keys().cloned().collect();
    for path in &paths {
        let Some(optionals) = packages[path]["optionalDependencies"].as_object() else {
            continue;
        };
        let missing: Vec<String> = optionals
            .keys()
            .filter(|name| !is_locked(packages, path, name))
            .cloned()
            .collect();
        if let Some(optionals) = packages[path]["optionalDependencies"].as_object_mut() {
            optionals.retain(|name, _| !missing.contains(name));
        }
    }
}

/// Returns whether Node.js finds the package `name` from the package at `path`.
fn is_locked(packages: &Map<String, Value>, path: &str, name: &str) -> bool {
    let mut folder = path;
    loop {
        let candidate = if folder.is_empty() {
            format!("node_modules/{name}")
        } else {
            format!("{folder}/node_modules/{name}")
        };
        if packages.contains_key(&candidate) {
            return true;
        }
        if folder.is_empty() {
            return false;
        }
        folder = folder
            .rsplit_once("node_modules/")
            .map_or("", |(parent, _)| parent.trim_end_matches('/'));
    }
}

/// Installs exactly what the lockfile names, and runs the install scripts.
///
/// # Errors
/// Fails if npm cannot install a package, or if an install script fails.
pub(super) async fn build(
    installer: &Installer,
    name: &PackageName,
    folder: &Path,
    lockfile: &str,
    context: &InstallContext,
) -> Result<(), Failure> {
    let parsed: Value = serde_json::from_str(lockfile).unwrap_or_default();
    write_file(folder, "package.json", &parsed["packages"][""].to_string())?;
    write_file(folder, LOCKFILE, lockfile)?;
    let output = run_npm(installer, context, &["ci"], folder).await?;
    if output.exit == ExitKind::Success {
        Ok(())
    } else {
        Err(npm_failure(name, None, &output))
    }
}

/// Returns the newest version of a package.
///
/// # Errors
/// Fails if npm cannot ask the registry, or if the package has no version.
pub(super) async fn latest(
    installer: &Installer,
    name: &PackageName,
    context: &InstallContext,
) -> Result<String, Failure> {
    let scratch = installer.node.scratch()?;
    let args = ["view", name.as_str(), "dist-tags", "--json"];
    let output = run_npm(installer, context, &args, &scratch.folder).await?;
    if output.exit != ExitKind::Success {
        return Err(npm_failure(name, None, &output));
    }
    let tags: BTreeMap<String, String> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    tags.get("latest").cloned().ok_or_else(|| {
        Failure::new(
            Code::UpstreamError,
            format!("npm names no latest version of {name}"),
        )
    })
}

async fn run_npm(
    installer: &Installer,
    context: &InstallContext,
    args: &[&str],
    folder: &Path,
) -> Result<ProcessOutput, Failure> {
    let folder = folder.to_string_lossy();
    let args: Vec<_> = args
        .iter()
        .copied()
        .chain(["--prefix", &folder])
        .chain(OPTIONS)
        .collect();
    let output = process::run(installer, context, "npm", &args, &[])
        .await
        .map_err(|error| {
            Failure::new(Code::UpstreamError, format!("npm cannot be run: {error}"))
        })?;
    if output.exit == ExitKind::NotFound {
        return Err(Failure::new(
            Code::UpstreamError,
            "npm was not found: packages of npm need Node.js 20 or newer with npm on the worker's PATH",
        ));
    }
    Ok(output)
}

fn project_manifest(name: &PackageName, version: &str) -> Value {
    json!({ "private": true, "dependencies": { name.as_str(): version } })
}

fn write_file(folder: &Path, file: &str, text: &str) -> Result<(), Failure> {
    fs::write(folder.join(file), text).map_err(|error| folder_failure(folder, &error))
}

/// The fields of a package.json that say how the package is started.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    bin: Option<Bin>,
    #[serde(default)]
    main: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Bin {
    /// One file, whose program has the name of the package.
    File(#[allow(dead_code)] String),
    /// Files by the names of their programs.
    Programs(BTreeMap<String, String>),
}

/// Returns the command line that starts a package: its program, otherwise its main module.
///
/// # Errors
/// Fails if the package has several programs, or nothing to run.
pub(super) fn entry_point(name: &PackageName, folder: &Path) -> Result<EntryPoint, Failure> {
    let package_folder = folder.join("node_modules").join(name.as_str());
    let text = fs::read(package_folder.join("package.json"))
        .map_err(|error| folder_failure(&package_folder, &error))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
        Failure::new(
            Code::UpstreamError,
            format!("The package.json of {name} cannot be read: {error}"),
        )
    })?;
    let program = choose_program(name, manifest.bin)?
        .filter(|program| folder.join("node_modules/.bin").join(program).exists());
    if let Some(program) = program {
        return Ok(EntryPoint {
            command: format!("{FOLDER}/node_modules/.bin/{program}"),
            args: vec![],
        });
    }
    let main = manifest.main.unwrap_or_else(|| "index.js".into());
    let file = main_file(&package_folder, &main).ok_or_else(|| {
        Failure::invalid(format!(
            "Package {name} has nothing to run: no bin, no main; say with command and args what is to be started"
        ))
    })?;
    Ok(EntryPoint {
        command: "node".into(),
        args: vec![format!("{FOLDER}/node_modules/{name}/{file}")],
    })
}

/// Returns the program with the name of the package, otherwise the only program. Several names of one
/// file are one program.
fn choose_program(name: &PackageName, bin: Option<Bin>) -> Result<Option<String>, Failure> {
    let own_name = name.as_str().rsplit('/').next().unwrap_or_default();
    let programs = match bin {
        None => return Ok(None),
        Some(Bin::File(_)) => return Ok(Some(own_name.to_owned())),
        Some(Bin::Programs(programs)) => programs,
    };
    if programs.contains_key(own_name) {
        return Ok(Some(own_name.to_owned()));
    }
    let mut files: Vec<_> = programs
        .values()
        .map(|file| file.trim_start_matches("./"))
        .collect();
    files.sort_unstable();
    files.dedup();
    if files.len() > 1 {
        let names: Vec<_> = programs.into_keys().collect();
        return Err(Failure::invalid(format!(
            "Package {name} has several programs; name one of them in command: {}",
            names.join(", ")
        )));
    }
    Ok(programs.into_keys().next())
}

/// Returns the file of the main module, as Node.js finds it, if it lies within the package.
fn main_file(package_folder: &Path, main: &str) -> Option<String> {
    let main = main.trim_start_matches("./");
    let is_inside =
        !main.is_empty() && !main.starts_with('/') && !main.split('/').any(|part| part == "..");
    let candidates = [
        main.to_owned(),
        format!("{main}.js"),
        format!("{main}/index.js"),
    ];
    candidates
        .into_iter()
        .find(|file| is_inside && package_folder.join(file).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the entry point of the package `@s/p` with this manifest and these files.
    fn entry(manifest: &str, files: &[&str]) -> Result<EntryPoint, String> {
        let folder = tempfile::TempDir::new().expect("a folder");
        let modules = folder.path().join("node_modules");
        fs::create_dir_all(modules.join("@s/p")).expect("a folder");
        fs::create_dir_all(modules.join(".bin")).expect("a folder");
        fs::write(modules.join("@s/p/package.json"), manifest).expect("a file");
        for file in files {
            fs::write(modules.join(file), "").expect("a file");
        }
        let name = "@s/p".parse().expect("a name");
        entry_point(&name, folder.path()).map_err(|failure| failure.message)
    }

    fn program(name: &str) -> Result<EntryPoint, String> {
        Ok(EntryPoint {
            command: format!("{FOLDER}/node_modules/.bin/{name}"),
            args: vec![],
        })
    }

    #[test]
    fn the_program_of_a_package_is_started() {
        assert_eq!(entry(r#"{"bin":"x.js"}"#, &[".bin/p"]), program("p"));
        let two = r#"{"bin":{"a":"x.js","p":"y.js"}}"#;
        assert_eq!(entry(two, &[".bin/a", ".bin/p"]), program("p"));
        assert_eq!(entry(r#"{"bin":{"q":"x.js"}}"#, &[".bin/q"]), program("q"));
        let one_file = r#"{"bin":{"b":"./x.js","a":"x.js"}}"#;
        assert_eq!(entry(one_file, &[".bin/a", ".bin/b"]), program("a"));
        let several = entry(r#"{"bin":{"a":"x.js","b":"y.js"}}"#, &[".bin/a", ".bin/b"]);
        let error = several.expect_err("several programs");
        assert!(error.contains("a, b"), "{error}");
    }

    #[test]
    fn without_a_program_the_main_module_is_started() {
        let module = |file: &str| {
            Ok(EntryPoint {
                command: "node".into(),
                args: vec![format!("{FOLDER}/node_modules/@s/p/{file}")],
            })
        };
        assert_eq!(entry(r#"{"main":"./m"}"#, &["@s/p/m.js"]), module("m.js"));
        assert_eq!(entry("{}", &["@s/p/index.js"]), module("index.js"));
        let outside = entry(r#"{"main":"../../etc/x"}"#, &[]);
        let error = outside.expect_err("outside the package");
        assert!(error.contains("nothing to run"), "{error}");
    }

    #[test]
    fn a_lockfile_does_not_depend_on_the_requested_version() {
        let name: PackageName = "a".parse().expect("a name");
        let lockfile = |requested: &str| {
            let lockfile = json!({ "name": requested, "packages": {
                "": project_manifest(&name, requested),
                "node_modules/a": { "version": "1.2.3" },
            } });
            normalize_lockfile(lockfile.to_string().as_bytes(), &name)
        };
        assert_eq!(lockfile("latest"), lockfile("1.2.3"));
        assert_eq!(lockfile("latest").expect("a lockfile").0, "1.2.3");
    }

    #[test]
    fn optional_packages_that_do_not_exist_leave_the_lockfile() {
        let mut lockfile = json!({
            "": { "dependencies": { "a": "1" } },
            "node_modules/a": { "optionalDependencies": { "a-linux": "1", "a-windows": "1" } },
            "node_modules/a-linux": { "optional": true },
            "node_modules/a/node_modules/@s/b": {
                "optionalDependencies": { "a-linux": "1", "own": "1", "parent": "1", "none": "1" }
            },
            "node_modules/a/node_modules/@s/b/node_modules/own": {},
            "node_modules/a/node_modules/parent": {},
        });
        let packages = lockfile.as_object_mut().expect("an object");
        remove_missing_optionals(packages);
        let optionals = |path: &str| {
            let optionals = packages[path]["optionalDependencies"].as_object();
            let names = optionals.expect("an object").keys().cloned();
            names.collect::<Vec<_>>()
        };
        assert_eq!(optionals("node_modules/a"), ["a-linux"]);
        assert_eq!(
            optionals("node_modules/a/node_modules/@s/b"),
            ["a-linux", "own", "parent"]
        );
        assert!(packages[""].get("optionalDependencies").is_none());
    }
}
