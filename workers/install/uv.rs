//! Installs packages of PyPI with uv: the same requirements, lockfiles and environments as with pip, in a fraction of the
//! time.

use std::fs;
use std::path::Path;

use super::diagnose::folder_failure;
use super::lockfile::{self, LockedPackage, has_hashes, not_from_the_index, version_of};
use super::process::{ExitKind, ProcessOutput, is_uv_error};
use super::uv_failure::uv_failure;
use super::uv_settings::UvSettings;
use super::{InstallContext, Installer, process};
use crate::core::failure::{Code, Failure};
use crate::core::names::PackageName;

/// The options of every uv command.
const OPTIONS: [&str; 2] = ["--no-progress", "--color=never"];
/// The error lines that the log shows.
const MAX_REASONS: usize = 4;

/// A failed command of uv.
#[derive(Debug, thiserror::Error)]
pub(super) enum UvError {
    /// pip would fail too.
    #[error("uv has failed")]
    Clear(#[source] Failure),
    /// The reason is unknown, so pip repeats the work.
    #[error("uv has failed for an unknown reason: {0}")]
    Unclear(String),
}

/// A uv that can be run, and its settings for one installation.
pub(super) struct Uv<'a> {
    pub installer: &'a Installer,
    pub context: &'a InstallContext,
    pub program: String,
    /// The path of the Python that the packages need.
    pub python: String,
    pub settings: UvSettings,
}

impl From<Failure> for UvError {
    fn from(failure: Failure) -> Self {
        Self::Clear(failure)
    }
}

impl Uv<'_> {
    /// Returns what uv would install for these requirements: the exact version of the package `name`, and the lockfile.
    /// `version` is the version that the caller asked for.
    ///
    /// # Errors
    /// Fails if uv cannot resolve the package.
    pub(super) async fn resolve(
        &self,
        name: &PackageName,
        version: Option<&str>,
        requirements: &[&str],
        options: &[&str],
    ) -> Result<(String, String), UvError> {
        let scratch = self.installer.python.scratch()?;
        let wanted = scratch.folder.join("requirements.in");
        let locked = scratch.folder.join("requirements.txt");
        fs::write(&wanted, requirements.join("\n"))
            .map_err(|error| folder_failure(&scratch.folder, &error))?;
        let (wanted, output_file) = (wanted.to_string_lossy(), locked.to_string_lossy());
        let mut args = vec!["pip", "compile", "--quiet", "--no-header", "--no-annotate"];
        args.extend(["--generate-hashes", "--python", &self.python]);
        args.extend(["--output-file", &output_file]);
        // The newest versions count, and not the versions that uv remembers.
        let names = requirements.iter().map(|requirement| name_of(requirement));
        let refreshed: Vec<_> = names
            .map(|name| format!("--refresh-package={name}"))
            .collect();
        args.extend(refreshed.iter().map(String::as_str));
        args.extend(options.iter().copied().chain([&*wanted]));
        let output = self.run(&args, &self.settings.options).await?;
        self.check(name, version, &output)?;
        let text = fs::read_to_string(&locked).map_err(|error| folder_failure(&locked, &error))?;
        let packages = parse_requirements(&text)?;
        let version = version_of(&packages, name).ok_or_else(|| {
            let reason = format!("uv would not install {name}");
            UvError::Clear(Failure::new(Code::UpstreamError, reason))
        })?;
        Ok((version, lockfile::to_text(&packages)))
    }

    /// Makes a virtual environment with the packages of the lockfile in an empty folder.
    ///
    /// # Errors
    /// Fails if the environment cannot be made, or if uv cannot install a package.
    pub(super) async fn build(
        &self,
        name: &PackageName,
        folder: &Path,
        lockfile: &str,
    ) -> Result<(), UvError> {
        let folder_text = folder.to_string_lossy();
        let args = ["venv", "--quiet", "--python", &self.python, &folder_text];
        let output = self.run(&args, &[]).await?;
        self.check(name, None, &output)?;
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, lockfile).map_err(|error| folder_failure(folder, &error))?;
        let python = folder.join("bin/python");
        let (python, requirements) = (python.to_string_lossy(), requirements.to_string_lossy());
        let mut args = vec!["pip", "install", "--no-deps", "--python", &python];
        if has_hashes(lockfile) {
            args.push("--require-hashes");
        }
        args.extend(["--requirement", &requirements]);
        let output = self.run(&args, &self.settings.options).await?;
        self.check(name, None, &output)
    }

    /// Returns the newest version of a package.
    ///
    /// # Errors
    /// Fails if uv cannot ask the package index.
    pub(super) async fn latest(&self, name: &PackageName) -> Result<String, UvError> {
        let requirements = [name.as_str()];
        let (version, _) = self
            .resolve(name, None, &requirements, &["--no-deps"])
            .await?;
        Ok(version)
    }

    fn check(
        &self,
        name: &PackageName,
        version: Option<&str>,
        output: &ProcessOutput,
    ) -> Result<(), UvError> {
        if output.exit == ExitKind::Success {
            return Ok(());
        }
        Err(match uv_failure(name, version, output) {
            Some(failure) => UvError::Clear(failure),
            None => UvError::Unclear(reason(output)),
        })
    }

    /// Runs uv. Credentials of package indexes go through the environment, because other users of the machine can read
    /// command lines.
    async fn run(&self, args: &[&str], options: &[String]) -> Result<ProcessOutput, UvError> {
        let options = options.iter().map(String::as_str);
        let args: Vec<_> = args.iter().copied().chain(OPTIONS).chain(options).collect();
        let variables = self.settings.variables.iter();
        let variables: Vec<_> = variables
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        process::run(
            self.installer,
            self.context,
            &self.program,
            &args,
            &variables,
        )
        .await
        .map_err(|error| UvError::Unclear(error.to_string()))
    }
}

/// Returns the first lines with which uv names an error, for the log of the operator.
fn reason(output: &ProcessOutput) -> String {
    let lines = output.lines.iter().map(String::as_str);
    let errors = lines.filter(|line| is_uv_error(line)).map(str::trim);
    let errors: Vec<_> = errors.take(MAX_REASONS).collect();
    errors.join("; ")
}

/// Returns the name of the package that a requirement names.
fn name_of(requirement: &str) -> &str {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let end = requirement.find(|character| !is_part(character));
    &requirement[..end.unwrap_or(requirement.len())]
}

/// Parses the requirements that `uv pip compile` writes: `name==version \`, and a line for each hash.
fn parse_requirements(text: &str) -> Result<Vec<LockedPackage>, UvError> {
    let mut packages: Vec<LockedPackage> = Vec::new();
    for line in text.lines() {
        let line = line.trim().trim_end_matches('\\').trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(hash) = line.strip_prefix("--hash=") {
            // Hashes of other kinds are not in the lockfile.
            if let (Some(hash), Some(package)) = (hash.strip_prefix("sha256:"), packages.last_mut())
            {
                package.hashes.push(hash.to_owned());
            }
            continue;
        }
        if let Some((package, _)) = line.split_once(" @ ") {
            return Err(not_from_the_index(package).into());
        }
        let package = line.split_once("==").and_then(|(name, version)| {
            Some(LockedPackage {
                name: name.parse().ok()?,
                version: version.to_owned(),
                hashes: vec![],
            })
        });
        packages.push(package.ok_or_else(|| UvError::Unclear(format!("unknown line: {line}")))?);
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_of_uv_are_parsed() {
        let text =
            "# by uv\na==1.0 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\nb-c==2.0.post1\n";
        let packages = parse_requirements(text).expect("packages");
        let shown: Vec<_> = packages
            .iter()
            .map(|package| {
                (
                    package.name.as_str(),
                    package.version.as_str(),
                    package.hashes.len(),
                )
            })
            .collect();
        assert_eq!(shown, [("a", "1.0", 2), ("b-c", "2.0.post1", 0)]);
    }

    #[test]
    fn a_url_is_not_in_a_lockfile() {
        let error = parse_requirements("a @ https://h/a.tar.gz\n").expect_err("a URL");
        assert!(matches!(error, UvError::Clear(failure) if failure.message.starts_with("a comes")));
        let error = parse_requirements("-e ./here\n").expect_err("a path");
        assert!(matches!(error, UvError::Unclear(_)));
    }

    #[test]
    fn the_name_of_a_requirement_ends_before_its_version() {
        for (requirement, name) in [("mcp<2", "mcp"), ("a.b-c[d]>=1", "a.b-c"), ("x", "x")] {
            assert_eq!(name_of(requirement), name);
        }
    }
}
