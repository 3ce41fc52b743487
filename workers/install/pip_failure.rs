//! Finds the reason for a failure of pip.

use super::diagnose::{Diagnosis, Finding, not_connected, not_trusted, not_writable, upstream};
use super::process::ProcessOutput;
use super::python_failure;
use crate::core::failure::Failure;
use crate::core::names::PackageName;

/// Texts with which pip says that it cannot connect to the package index.
const PIP_NOT_CONNECTED: [&str; 9] = [
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "NameResolutionError",
    "Connection refused",
    "Connection reset",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Network is unreachable",
];
/// The parts of a pip line around the name of a build step.
const PIP_STEP_START: &str = "× ";
const PIP_STEP_END: &str = " did not run successfully";
/// The step in which pip installs the requirements of a build: a request to the package index.
const PIP_BUILD_DEPENDENCIES: &str = "pip subprocess to install build dependencies";
const PIP_NOT_FOUND: &str = "Could not find a version that satisfies the requirement ";

/// Returns the failure of pip. `version` is the version that the caller asked for.
pub fn pip_failure(name: &PackageName, version: Option<&str>, output: &ProcessOutput) -> Failure {
    let diagnosis = Diagnosis { output };
    let finding = diagnosis
        .full_disk()
        .or_else(|| pip_build_failed(&diagnosis, name))
        .or_else(|| pip_request_failed(&diagnosis))
        .or_else(|| pip_conflict(&diagnosis, name))
        .or_else(|| pip_other_python(&diagnosis, name))
        .or_else(|| pip_package_missing(&diagnosis, name, version))
        .or_else(|| pip_wrong_hash(&diagnosis, name))
        .unwrap_or_else(|| upstream(format!("pip could not install {name}")));
    diagnosis.failure(finding)
}

/// Finds a build step that has failed. The words of the step do not count as words of pip.
fn pip_build_failed(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let step = diagnosis
        .line_with(PIP_STEP_END)
        .and_then(|line| line.split_once(PIP_STEP_START))
        .and_then(|(_, step)| step.split_once(PIP_STEP_END))
        .map(|(step, _)| step);
    let is_build = step.is_some()
        || diagnosis.has_any(&["metadata-generation-failed", "Failed building wheel"]);
    if !is_build || step == Some(PIP_BUILD_DEPENDENCIES) {
        return None;
    }
    let culprit = failed_pip_package(diagnosis);
    Some(python_failure::build_failed(name, step, culprit))
}

/// Returns the package whose build has failed. The versions of pip name it in different sentences.
fn failed_pip_package<'a>(diagnosis: &'a Diagnosis) -> Option<&'a str> {
    let word_after = |start: &str| {
        let (_, rest) = diagnosis.line_with(start)?.split_once(start)?;
        let end = rest
            .find(|character: char| {
                !(character.is_ascii_alphanumeric() || "._-".contains(character))
            })
            .unwrap_or(rest.len());
        (end > 0).then(|| &rest[..end])
    };
    let named = word_after("Failed building wheel for ")
        .or_else(|| word_after("Failed to build '"))
        .or_else(|| word_after("Building wheel for "));
    // Otherwise it is the package that pip collected last.
    named.or_else(|| {
        let lines = diagnosis.output.lines.iter().rev();
        let (_, rest) = lines
            .filter_map(|line| line.split_once("Collecting "))
            .next()?;
        rest.split([' ', '=', '<', '>', '!', '~', '[', ';', '('])
            .next()
    })
}

fn pip_request_failed(diagnosis: &Diagnosis) -> Option<Finding> {
    let refused = [
        "401 Error",
        "403 Error",
        "Credentials not correct",
        "401 Client Error",
        "403 Client Error",
    ];
    let sentence = if diagnosis.has_any(&PIP_NOT_CONNECTED) {
        not_connected("pip")
    } else if diagnosis.has_any(&["CERTIFICATE_VERIFY_FAILED"]) {
        not_trusted("pip")
    } else if diagnosis.has_any(&["Permission denied", "EACCES"]) {
        not_writable("pip")
    } else if diagnosis.has_any(&refused) {
        return Some(python_failure::not_let_in());
    } else {
        return None;
    };
    Some(upstream(sentence))
}

fn pip_conflict(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let is_conflict = diagnosis.has_any(&["ResolutionImpossible", "conflicting dependencies"]);
    is_conflict.then(|| python_failure::conflict(name))
}

fn pip_other_python(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let needs_python = diagnosis.has_any(&[
        "requires a different Python",
        "require a different python version",
    ]) && diagnosis.has_any(&["No matching distribution", "different Python:"]);
    needs_python.then(|| python_failure::other_python(name))
}

fn pip_package_missing(
    diagnosis: &Diagnosis,
    name: &PackageName,
    version: Option<&str>,
) -> Option<Finding> {
    let line = diagnosis.line_with(PIP_NOT_FOUND)?;
    let (_, requirement) = line.split_once(PIP_NOT_FOUND)?;
    let end = requirement
        .find(|character: char| !(character.is_ascii_alphanumeric() || "._-".contains(character)))
        .unwrap_or(requirement.len());
    if !requirement[..end].eq_ignore_ascii_case(name.as_str()) {
        return Some(python_failure::dependency_missing(name));
    }
    Some(if line.contains("(from versions: none)") {
        python_failure::package_missing(name)
    } else {
        python_failure::version_missing(name, version)
    })
}

fn pip_wrong_hash(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let is_wrong = diagnosis.has_any(&["DO NOT MATCH THE HASHES"]);
    is_wrong.then(|| python_failure::wrong_hash(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::failure::Code;
    use crate::workers::install::diagnose::output;

    #[test]
    fn failures_of_pip_are_described() {
        let name: PackageName = "p".parse().expect("a name");
        for (text, code, sentence) in [
            (
                format!("{PIP_NOT_FOUND}p (from versions: none)"),
                Code::PackageNotFound,
                "The package index has no package p",
            ),
            (
                format!("{PIP_NOT_FOUND}p==9 (from versions: 1, 2)"),
                Code::InvalidRequest,
                "The package index has no version 9 of p",
            ),
            (
                format!("{PIP_NOT_FOUND}q<1 (from versions: 1, 2)"),
                Code::UpstreamError,
                "The package index has not all that p needs",
            ),
            (
                format!(
                    "WARNING: Retrying: NewConnectionError\n{PIP_NOT_FOUND}p (from versions: none)"
                ),
                Code::UpstreamError,
                "pip cannot reach its registry",
            ),
            (
                "Collecting q==1.0\n  error: subprocess-exited-with-error\n  × Getting requirements to build wheel did not run successfully.\n      urllib: Connection refused".into(),
                Code::UpstreamError,
                "Package p could not be built: the build step `Getting requirements to build wheel` of q failed",
            ),
            (
                "  × Building wheel for q (pyproject.toml) did not run successfully.\n  ERROR: Failed building wheel for q".into(),
                Code::UpstreamError,
                "Package p could not be built: the build step `Building wheel for q (pyproject.toml)` of q failed",
            ),
            (
                "  × pip subprocess to install build dependencies did not run successfully.\n      WARNING: Retrying: NewConnectionError".into(),
                Code::UpstreamError,
                "pip cannot reach its registry",
            ),
        ] {
            let failure = pip_failure(&name, Some("9"), &output(&text));
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.starts_with(sentence), "{}", failure.message);
        }
    }
}
