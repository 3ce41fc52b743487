//! Finds the console scripts of a Python package in its virtual environment, as `uvx` and `pipx run`
//! do.

use std::fs;
use std::path::{Path, PathBuf};

use super::diagnose::folder_failure;
use crate::core::failure::Failure;
use crate::core::model::package::python_name;
use crate::core::names::PackageName;

/// Returns the console script that starts a package: the script with the name of the package,
/// otherwise its only script.
///
/// # Errors
/// Fails if the package has several scripts or none.
pub(super) fn choose_script(name: &PackageName, venv: &Path) -> Result<String, Failure> {
    let scripts = console_scripts(name, venv)?;
    let own_script = scripts.iter().find(|script| is_same_name(script, name));
    match (own_script, scripts.as_slice()) {
        (Some(script), _) => Ok(script.clone()),
        (None, [script]) => Ok(script.clone()),
        (None, []) => Err(Failure::invalid(format!(
            "Package {name} has no console script: name a module that python -m runs in pythonModule, or a program in command"
        ))),
        (None, _) => Err(Failure::invalid(format!(
            "Package {name} has several console scripts; name one of them in command: {}",
            scripts.join(", ")
        ))),
    }
}

/// Returns whether two names are one name after PyPI's normalization (PEP 503).
fn is_same_name(text: &str, name: &PackageName) -> bool {
    let normalized = |name: &PackageName| python_name(name).ok();
    let text = text.parse().ok();
    text.is_some_and(|text| normalized(&text).is_some() && normalized(&text) == normalized(name))
}

fn console_scripts(name: &PackageName, venv: &Path) -> Result<Vec<String>, Failure> {
    let Some(metadata) = metadata_folder(name, venv)? else {
        return Ok(vec![]);
    };
    let file = metadata.join("entry_points.txt");
    if !file.exists() {
        return Ok(vec![]);
    }
    let text = fs::read_to_string(&file).map_err(|error| folder_failure(&file, &error))?;
    let scripts = parse_console_scripts(&text).into_iter();
    Ok(scripts
        .filter(|script| venv.join("bin").join(script).is_file())
        .collect())
}

/// Returns the folders in which a package can have files of its own: its metadata, and the module with its name.
pub(super) fn package_folders(name: &PackageName, venv: &Path) -> Vec<PathBuf> {
    let Ok(Some(metadata)) = metadata_folder(name, venv) else {
        return vec![];
    };
    let module = name.as_str().replace(['-', '.'], "_");
    let module = metadata.with_file_name(module);
    vec![metadata, module]
}

/// Returns the folder with the metadata of a package, `<name>-<version>.dist-info`.
fn metadata_folder(name: &PackageName, venv: &Path) -> Result<Option<PathBuf>, Failure> {
    for library in subfolders(&venv.join("lib"))? {
        for folder in subfolders(&library.join("site-packages"))? {
            let file_name = folder.file_name().and_then(|name| name.to_str());
            let package = file_name
                .and_then(|text| text.strip_suffix(".dist-info"))
                .and_then(|text| text.rsplit_once('-'))
                .map(|(package, _)| package);
            if package.is_some_and(|package| is_same_name(package, name)) {
                return Ok(Some(folder));
            }
        }
    }
    Ok(None)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failure = |error| folder_failure(folder, &error);
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(failure)? {
        folders.push(entry.map_err(failure)?.path());
    }
    Ok(folders)
}

/// Returns the names in the section `console_scripts` of an entry_points.txt.
fn parse_console_scripts(text: &str) -> Vec<String> {
    let mut is_in_section = false;
    let mut names = Vec::new();
    for entry in text.lines().map(str::trim) {
        if entry.starts_with('[') {
            is_in_section = entry == "[console_scripts]";
        } else if is_in_section
            && !entry.starts_with(['#', ';'])
            && let Some((script, _)) = entry.split_once('=')
        {
            names.push(script.trim().to_owned());
        }
    }
    let is_file_name = |name: &String| !name.is_empty() && !name.contains('/') && name != "..";
    names.retain(is_file_name);
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: &str, entry_points: &str, programs: &[&str]) -> Result<String, String> {
        let venv = tempfile::TempDir::new().expect("a folder");
        let library = venv.path().join("lib/python3.12/site-packages");
        let metadata = library.join("My_Server-1.0.dist-info");
        fs::create_dir_all(&metadata).expect("a folder");
        fs::create_dir_all(library.join("other-2.0.dist-info")).expect("a folder");
        fs::create_dir_all(venv.path().join("bin")).expect("a folder");
        fs::write(metadata.join("entry_points.txt"), entry_points).expect("a file");
        for program in programs {
            fs::write(venv.path().join("bin").join(program), "").expect("a file");
        }
        let name = name.parse().expect("a name");
        choose_script(&name, venv.path()).map_err(|failure| failure.message)
    }

    #[test]
    fn the_script_of_the_packages_name_or_the_only_script_is_chosen() {
        let one = "[console_scripts]\nserve = a:main\n\n[other]\nx = a:b\n";
        assert_eq!(chosen("my-server", one, &["serve"]), Ok("serve".into()));
        let own = "[gui_scripts]\ny=a:b\n[console_scripts]\nother=a:b\nmy_server = a:main [cli]\n";
        assert_eq!(
            chosen("my-server", own, &["other", "my_server"]),
            Ok("my_server".into())
        );
        let several = "[console_scripts]\nb = a:b\na = a:a\n";
        let error = chosen("my-server", several, &["a", "b"]).expect_err("several");
        assert!(error.contains("command: a, b"), "{error}");
        for none in ["", "[console_scripts]\n../x = a:b\ngone = a:b\n"] {
            let error = chosen("my-server", none, &[]).expect_err("none");
            assert!(error.contains("pythonModule"), "{error}");
        }
    }
}
