//! The lockfile of a Python package: one line for each distribution, with its exact version and its hashes.

use std::fmt::Write as _;

use crate::core::failure::{Code, Failure};
use crate::core::model::package::python_name;
use crate::core::names::PackageName;

/// A distribution of a lockfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockedPackage {
    pub name: PackageName,
    pub version: String,
    /// The SHA-256 hashes of the files that may be installed.
    pub hashes: Vec<String>,
}

/// Returns the requirements in the order of their names. They have hashes if every distribution has one, because
/// installers accept hashes for all requirements or for none.
pub(super) fn to_text(packages: &[LockedPackage]) -> String {
    let with_hashes = packages.iter().all(|package| !package.hashes.is_empty());
    let mut lines: Vec<_> = packages
        .iter()
        .map(|package| {
            let mut line = format!("{}=={}", package.name, package.version);
            for hash in package.hashes.iter().filter(|_| with_hashes) {
                // Writing to a text cannot fail.
                let _ = write!(line, " --hash=sha256:{hash}");
            }
            line.push('\n');
            line
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// Returns whether the requirements of a lockfile have hashes.
pub(super) fn has_hashes(lockfile: &str) -> bool {
    lockfile.contains(" --hash=")
}

/// Returns the version of a package in a lockfile.
pub(super) fn version_of(packages: &[LockedPackage], wanted: &PackageName) -> Option<String> {
    let mut packages = packages.iter();
    let found = packages.find(|package| is_same_package(&package.name, wanted))?;
    Some(found.version.clone())
}

fn is_same_package(found: &PackageName, wanted: &PackageName) -> bool {
    let normalized = |name| python_name(name).ok();
    normalized(found).is_some() && normalized(found) == normalized(wanted)
}

/// Returns the failure of a requirement that names a URL. A lockfile cannot hold it.
pub(super) fn not_from_the_index(name: &str) -> Failure {
    Failure::new(
        Code::UpstreamError,
        format!("{name} comes from a URL and not from the package index; that cannot be installed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, hashes: &[&str]) -> LockedPackage {
        LockedPackage {
            name: name.parse().expect("a name"),
            version: "1.0".into(),
            hashes: hashes.iter().map(|&hash| hash.to_owned()).collect(),
        }
    }

    #[test]
    fn all_requirements_have_hashes_or_none_has() {
        let both = [package("b", &["1", "2"]), package("a", &["3"])];
        let text = to_text(&both);
        assert_eq!(
            text,
            "a==1.0 --hash=sha256:3\nb==1.0 --hash=sha256:1 --hash=sha256:2\n"
        );
        assert!(has_hashes(&text));
        let text = to_text(&[package("b", &["1"]), package("a", &[])]);
        assert_eq!(text, "a==1.0\nb==1.0\n");
        assert!(!has_hashes(&text));
    }

    #[test]
    fn a_name_is_found_in_each_spelling() {
        let packages = [package("My_Server", &[])];
        let version = |name: &str| version_of(&packages, &name.parse().expect("a name"));
        assert_eq!(version("my-server").as_deref(), Some("1.0"));
        assert_eq!(version("other"), None);
    }
}
