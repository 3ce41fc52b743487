//! Packages of npm: a project of one dependency, locked by npm and installed from the lock.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::diagnose::disk;
use super::process::{ExitKind, ProcessOutput};
use super::{InstallContext, Installer, PackageRequest, diagnose, process};
use crate::core::failure::{Code, Failure};
use crate::core::model::package::{EntryPoint, FOLDER};
use crate::core::names::PackageName;

/// Each request is a line of progress; without a network it ends soon. What is said on the command line is no secret.
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

/// The exact version, and npm's own lock.
pub async fn resolve(
    installer: &Installer,
    wanted: &PackageRequest<'_>,
    around: &InstallContext,
) -> Result<(String, String), Failure> {
    let scratch = installer.node.scratch()?;
    let version = wanted.version.unwrap_or("latest");
    write(
        &scratch.folder,
        "package.json",
        &project(wanted.name, version).to_string(),
    )?;
    let args = [
        "install",
        "--package-lock-only",
        "--package-lock",
        "--ignore-scripts",
    ];
    let ended = npm(installer, around, &args, &scratch.folder).await?;
    if ended.how != ExitKind::Well {
        return Err(diagnose::npm(wanted.name, wanted.version, &ended));
    }
    let lock = fs::read(scratch.folder.join("package-lock.json"))
        .map_err(|error| disk(&scratch.folder, &error))?;
    let (version, lock) = exact(&lock, wanted.name).ok_or_else(|| {
        let nonsense = format!(
            "npm wrote no lock for {}; is it npm 7 or newer?",
            wanted.name
        );
        Failure::new(Code::UpstreamError, nonsense).with_details(Some(ended.lines.join("\n")))
    })?;
    Ok((version, lock))
}

/// The version in the lock, and the lock as it is for exactly that one.
fn exact(lock: &[u8], name: &PackageName) -> Option<(String, String)> {
    let mut lock: Value = serde_json::from_slice(lock).ok()?;
    let version = lock["packages"][format!("node_modules/{name}")]["version"]
        .as_str()?
        .to_owned();
    // The folder's name, and what was asked for: neither decides what is installed.
    lock.as_object_mut()?
        .insert("name".into(), "package".into());
    lock["packages"][""] = project(name, &version);
    Some((version, lock.to_string()))
}

/// Exactly what the lock says, install scripts included.
pub async fn build(
    installer: &Installer,
    name: &PackageName,
    folder: &Path,
    lock: &str,
    around: &InstallContext,
) -> Result<(), Failure> {
    let parsed: Value = serde_json::from_str(lock).unwrap_or_default();
    write(folder, "package.json", &parsed["packages"][""].to_string())?;
    write(folder, "package-lock.json", lock)?;
    let ended = npm(installer, around, &["ci"], folder).await?;
    if ended.how == ExitKind::Well {
        Ok(())
    } else {
        Err(diagnose::npm(name, None, &ended))
    }
}

pub async fn latest(
    installer: &Installer,
    name: &PackageName,
    around: &InstallContext,
) -> Result<String, Failure> {
    let scratch = installer.node.scratch()?;
    let ended = npm(
        installer,
        around,
        &["view", name.as_str(), "dist-tags", "--json"],
        &scratch.folder,
    )
    .await?;
    if ended.how != ExitKind::Well {
        return Err(diagnose::npm(name, None, &ended));
    }
    let tags: BTreeMap<String, String> = serde_json::from_slice(&ended.answer).unwrap_or_default();
    let nothing = || {
        Failure::new(
            Code::UpstreamError,
            format!("npm names no latest version of {name}"),
        )
    };
    tags.get("latest").cloned().ok_or_else(nothing)
}

async fn npm(
    installer: &Installer,
    around: &InstallContext,
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
    let ended = process::run(installer, around, "npm", &args, &[]).await;
    let ended = ended.map_err(|error| {
        Failure::new(Code::UpstreamError, format!("npm cannot be run: {error}"))
    })?;
    let missing =
        "npm was not found: packages of npm need Node.js 20 or newer with npm on the worker's PATH";
    if ended.how == ExitKind::Missing {
        Err(Failure::new(Code::UpstreamError, missing))
    } else {
        Ok(ended)
    }
}

fn project(name: &PackageName, version: &str) -> Value {
    json!({ "private": true, "dependencies": { name.as_str(): version } })
}

fn write(folder: &Path, file: &str, text: &str) -> Result<(), Failure> {
    fs::write(folder.join(file), text).map_err(|error| disk(folder, &error))
}

/// The part of a package.json that says what is run.
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
    /// It is called as the package is.
    One(#[allow(dead_code)] String),
    Many(BTreeMap<String, String>),
}

/// Its program, or else its main module.
pub fn entry(name: &PackageName, folder: &Path) -> Result<EntryPoint, Failure> {
    let own = name.as_str().rsplit('/').next().unwrap_or_default();
    let place = folder.join("node_modules").join(name.as_str());
    let text = fs::read(place.join("package.json")).map_err(|error| disk(&place, &error))?;
    let broken = |error| {
        Failure::new(
            Code::UpstreamError,
            format!("The package.json of {name} cannot be read: {error}"),
        )
    };
    let Manifest { bin, main } = serde_json::from_slice(&text).map_err(broken)?;
    let program = match bin {
        Some(Bin::One(_)) => Some(own.to_owned()),
        Some(Bin::Many(programs)) if programs.contains_key(own) => Some(own.to_owned()),
        Some(Bin::Many(programs)) if programs.len() > 1 => {
            let names: Vec<_> = programs.into_keys().collect();
            let several = format!(
                "Package {name} has several programs; name one of them in command: {}",
                names.join(", ")
            );
            return Err(Failure::invalid(several));
        }
        Some(Bin::Many(programs)) => programs.into_keys().next(),
        None => None,
    };
    let program = program.filter(|program| folder.join("node_modules/.bin").join(program).exists());
    if let Some(program) = program {
        return Ok(EntryPoint {
            command: format!("{FOLDER}/node_modules/.bin/{program}"),
            args: vec![],
        });
    }
    let main = main.unwrap_or_else(|| "index.js".into());
    let main = main.trim_start_matches("./");
    let inside =
        !main.is_empty() && !main.split('/').any(|part| part == "..") && !main.starts_with('/');
    let files = [
        main.to_owned(),
        format!("{main}.js"),
        format!("{main}/index.js"),
    ];
    let file = files
        .into_iter()
        .find(|file| inside && place.join(file).is_file());
    let nothing = || {
        let nothing = format!(
            "Package {name} has nothing to run: no bin, no main; say with command and args what is to be started"
        );
        Failure::invalid(nothing)
    };
    let file = file.ok_or_else(nothing)?;
    Ok(EntryPoint {
        command: "node".into(),
        args: vec![format!("{FOLDER}/node_modules/{name}/{file}")],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run_is_found_in_the_package() {
        let found = |manifest: &str, files: &[&str]| {
            let folder = tempfile::TempDir::new().expect("a folder");
            let place = folder.path().join("node_modules/@s/p");
            fs::create_dir_all(&place).expect("made");
            fs::create_dir_all(folder.path().join("node_modules/.bin")).expect("made");
            fs::write(place.join("package.json"), manifest).expect("written");
            files.iter().for_each(|file| {
                fs::write(folder.path().join("node_modules").join(file), "").expect("written")
            });
            entry(&"@s/p".parse().expect("a name"), folder.path())
                .map_err(|failure| failure.message)
        };
        let bin = |name: &str| {
            Ok(EntryPoint {
                command: format!("{FOLDER}/node_modules/.bin/{name}"),
                args: vec![],
            })
        };
        assert_eq!(found(r#"{"bin":"x.js"}"#, &[".bin/p"]), bin("p"));
        assert_eq!(
            found(r#"{"bin":{"a":"x.js","p":"y.js"}}"#, &[".bin/a", ".bin/p"]),
            bin("p")
        );
        assert_eq!(found(r#"{"bin":{"q":"x.js"}}"#, &[".bin/q"]), bin("q"));
        let several = found(r#"{"bin":{"a":"x.js","b":"y.js"}}"#, &[".bin/a", ".bin/b"])
            .expect_err("several");
        assert!(several.contains("a, b"), "{several}");
        let node = |file: &str| {
            Ok(EntryPoint {
                command: "node".into(),
                args: vec![format!("{FOLDER}/node_modules/@s/p/{file}")],
            })
        };
        assert_eq!(found(r#"{"main":"./m"}"#, &["@s/p/m.js"]), node("m.js"));
        assert_eq!(found("{}", &["@s/p/index.js"]), node("index.js"));
        assert!(
            found(r#"{"main":"../../etc/x"}"#, &[])
                .expect_err("outside")
                .contains("nothing to run")
        );
    }

    #[test]
    fn a_lock_is_the_same_whatever_was_asked_for() {
        let lock = |asked: &str| {
            let lock = json!({ "name": asked, "packages": { "": project(&"a".parse().expect("a name"), asked), "node_modules/a": { "version": "1.2.3" } } });
            exact(lock.to_string().as_bytes(), &"a".parse().expect("a name"))
        };
        assert_eq!(lock("latest"), lock("1.2.3"));
        assert_eq!(lock("latest").expect("a lock").0, "1.2.3");
    }
}
