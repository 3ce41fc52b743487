//! Finds the reason for a failure of uv. The sentences are those of pip.

use super::diagnose::{Diagnosis, Finding, not_connected, not_trusted, not_writable, upstream};
use super::lockfile::not_from_the_index;
use super::process::ProcessOutput;
use super::python_failure;
use crate::core::failure::Failure;
use crate::core::names::PackageName;

/// Texts with which uv says that it cannot connect to the package index.
const NOT_CONNECTED: [&str; 7] = [
    "client error (Connect)",
    "tcp connect error",
    "dns error",
    "operation timed out",
    "Connection reset",
    "connection closed before message completed",
    "Network is unreachable",
];
/// Texts with which uv says that the package index refuses the credentials.
const REFUSED: [&str; 3] = [
    "lack of valid authentication credentials",
    "401 Unauthorized",
    "403 Forbidden",
];
/// The parts of a uv line around the hook of a build backend.
const HOOK_START: &str = "Call to `";
const HOOK_END: &str = "` failed";
const NO_SOLUTION: &str = "No solution found";
/// The characters with which uv draws the causes of an error.
const TREE: [char; 5] = ['×', '╰', '├', '─', '▶'];

/// Returns the failure of uv, if its reason is clear. `version` is the version that the caller asked for.
pub(super) fn uv_failure(
    name: &PackageName,
    version: Option<&str>,
    output: &ProcessOutput,
) -> Option<Failure> {
    let diagnosis = Diagnosis { output };
    let text = one_line(output);
    let finding = diagnosis
        .full_disk()
        .or_else(|| build_failed(&text, name))
        .or_else(|| request_failed(&diagnosis))
        .or_else(|| from_url(&text))
        .or_else(|| wrong_hash(&text, name))
        .or_else(|| no_solution(&text, name, version))?;
    Some(diagnosis.failure(finding))
}

/// Returns the output as one line, because older versions of uv wrap their sentences.
fn one_line(output: &ProcessOutput) -> String {
    let words = output.lines.iter().flat_map(|line| line.split_whitespace());
    let words: Vec<_> = words
        .filter(|word| !word.chars().all(|character| TREE.contains(&character)))
        .collect();
    words.join(" ")
}

/// Finds a hook of a build backend that has failed. The words of the hook do not count as words of uv.
fn build_failed(text: &str, name: &PackageName) -> Option<Finding> {
    let (_, hook) = text.split_once(HOOK_START)?;
    let (hook, _) = hook.split_once(HOOK_END)?;
    let culprit = text
        .split_once("Failed to build `")
        .or_else(|| text.split_once("Failed to download and build `"))
        .map(|(_, rest)| package_at_start(rest));
    let step = match hook.rsplit_once('.').map_or(hook, |(_, function)| function) {
        "get_requires_for_build_wheel" => Some("Getting requirements to build wheel".to_owned()),
        "prepare_metadata_for_build_wheel" => {
            Some("Preparing metadata (pyproject.toml)".to_owned())
        }
        "build_wheel" => {
            culprit.map(|culprit| format!("Building wheel for {culprit} (pyproject.toml)"))
        }
        _ => None,
    };
    Some(python_failure::build_failed(name, step.as_deref(), culprit))
}

fn request_failed(diagnosis: &Diagnosis) -> Option<Finding> {
    let sentence = if diagnosis.has_any(&["invalid peer certificate"]) {
        not_trusted("uv")
    } else if diagnosis.has_any(&NOT_CONNECTED) {
        not_connected("uv")
    } else if diagnosis.has_any(&["Permission denied", "Read-only file system"]) {
        not_writable("uv")
    } else if diagnosis.has_any(&REFUSED) {
        return Some(python_failure::not_let_in());
    } else {
        return None;
    };
    Some(upstream(sentence))
}

fn from_url(text: &str) -> Option<Finding> {
    let (before, _) = text.split_once("` was included as a URL dependency")?;
    let (_, package) = before.rsplit_once('`')?;
    Some(upstream(not_from_the_index(package).message))
}

fn wrong_hash(text: &str, name: &PackageName) -> Option<Finding> {
    let is_wrong = text.contains("Hash mismatch for");
    is_wrong.then(|| python_failure::wrong_hash(name))
}

/// Explains why no set of versions fits.
fn no_solution(text: &str, name: &PackageName, version: Option<&str>) -> Option<Finding> {
    let (_, reason) = text.split_once(NO_SOLUTION)?;
    if reason.contains("does not satisfy Python") {
        return Some(python_failure::other_python(name));
    }
    // Only pip says which files of a version exist.
    if reason.contains("no wheels with a matching") || reason.contains("no usable wheels") {
        return None;
    }
    if let Some(package) = unknown_package(reason) {
        return Some(if is_same(package, name) {
            python_failure::package_missing(name)
        } else {
            python_failure::dependency_missing(name)
        });
    }
    if let Some(package) = package_without_version(reason) {
        return Some(if is_same(package, name) {
            python_failure::version_missing(name, version)
        } else {
            python_failure::dependency_missing(name)
        });
    }
    let is_conflict = reason.contains(" depends on ") || reason.contains(" depend on ");
    is_conflict.then(|| python_failure::conflict(name))
}

/// Returns the package that no index has.
fn unknown_package(reason: &str) -> Option<&str> {
    let (before, _) = reason
        .split_once(" was not found in the package registry")
        .or_else(|| reason.split_once(" was not found in the provided package locations"))?;
    before.rsplit(' ').next()
}

/// Returns the package that has no version of the required kind.
fn package_without_version(reason: &str) -> Option<&str> {
    let named = reason
        .split_once("there is no version of ")
        .or_else(|| reason.split_once("there are no versions of "));
    if let Some((_, rest)) = named {
        return Some(package_at_start(rest));
    }
    // `only p<=2 is available and you require p==3`
    let mut clauses = reason.split("only ").skip(1);
    clauses.find_map(|clause| {
        let package = package_at_start(clause);
        let (_, rest) = clause.split_once(" is available and ")?;
        let rest = rest.split(", we can").next()?;
        let is_required = rest.starts_with("you require ") || rest.contains("depends on ");
        let (_, required) = rest.rsplit_once(' ')?;
        (is_required && package_at_start(required) == package).then_some(package)
    })
}

/// Returns the name at the start of a requirement.
fn package_at_start(text: &str) -> &str {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let end = text.find(|character| !is_part(character));
    &text[..end.unwrap_or(text.len())]
}

fn is_same(found: &str, name: &PackageName) -> bool {
    let normalized = |text: &str| text.to_ascii_lowercase().replace(['_', '.'], "-");
    normalized(found) == normalized(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::failure::Code;
    use crate::workers::install::diagnose::output;

    const NOT_FOUND: &str = "error: No solution found when resolving dependencies\n  cause: Because p was not found in the package registry and you require p, we can conclude that your requirements are unsatisfiable.";
    const NOT_FOUND_WRAPPED: &str = "  × No solution found when resolving dependencies:\n  ╰─▶ Because p was not found in the package registry and\n      you require p==9, we can conclude that your requirements are\n      unsatisfiable.";
    const NO_VERSION: &str = "error: No solution found when resolving dependencies\n  cause: Because there is no version of p==9 and you require p==9, we can conclude that your requirements are unsatisfiable.";
    const NO_NEWER: &str = "error: No solution found when resolving dependencies\n  cause: Because only p<=2 is available and you require p>=9, we can conclude that your requirements are unsatisfiable.";
    const NO_DEPENDENCY: &str = "error: No solution found when resolving dependencies\n  cause: Because there is no version of q==9 and p==1.0 depends on q==9, we can conclude that p==1.0 cannot be used.";
    const CONFLICT: &str = "error: No solution found when resolving dependencies\n  cause: Because all versions of p depend on q>=2.0.0 and you require p, we can conclude that you require q>=2.0.0.\n         And because you require q<2, we can conclude that your requirements are unsatisfiable.";
    const PYTHON: &str = "error: No solution found when resolving dependencies\n  cause: Because the current Python version (3.11.7) does not satisfy Python>=3.12 and p==9 depends on Python>=3.12, we can conclude that p==9 cannot be used.\n         And because only p<=9 is available and you require p==9, we can conclude that your requirements are unsatisfiable.";
    const BUILD: &str = "error: Failed to build `q==1.0`\n  cause: The build backend returned an error\n  cause: Call to `setuptools.build_meta:__legacy__.get_requires_for_build_wheel` failed (exit status: 1)\n         [stderr]\n         urllib: Connection refused tcp connect error";
    const WHEEL: &str = "  × Failed to build `q==1.0`\n  ├─▶ The build backend returned an error\n  ╰─▶ Call to `hatchling.build.build_wheel` failed (exit status: 1)";
    const UNREACHABLE: &str = "error: Request failed after 1 retry in 1.6s\n  cause: Failed to fetch: http://127.0.0.1:9/simple/p/\n  cause: client error (Connect)\n  cause: Connection refused (os error 111)";
    const UNTRUSTED: &str = "error: Failed to fetch: https://h/simple/p/\n  cause: client error (Connect)\n  cause: invalid peer certificate: UnknownIssuer";
    const REFUSED: &str = "error: No solution found when resolving dependencies\n  cause: Because p was not found in the package registry and you require p, we can conclude that your requirements are unsatisfiable.\nhint: An index URL (http://h/simple) could not be queried due to a lack of valid authentication credentials (401 Unauthorized)";
    const URL: &str = "error: Failed to resolve dependencies for package `p==1.0`\n  cause: Package `q` was included as a URL dependency. URL dependencies must be expressed as direct requirements or constraints.";
    const HASH: &str = "error: Failed to download `q==1.0`\n  cause: Hash mismatch for `q==1.0`";
    const FULL: &str = "error: Failed to write to the client cache\n  cause: failed to write to file `/c/x`: No space left on device (os error 28)";

    #[test]
    fn failures_of_uv_are_described_as_failures_of_pip() {
        let name: PackageName = "p".parse().expect("a name");
        for (text, code, sentence) in [
            (
                NOT_FOUND,
                Code::PackageNotFound,
                "The package index has no package p",
            ),
            (
                NOT_FOUND_WRAPPED,
                Code::PackageNotFound,
                "The package index has no package p",
            ),
            (
                NO_VERSION,
                Code::InvalidRequest,
                "The package index has no version 9 of p",
            ),
            (
                NO_NEWER,
                Code::InvalidRequest,
                "The package index has no version 9 of p",
            ),
            (
                NO_DEPENDENCY,
                Code::UpstreamError,
                "The package index has not all that p needs",
            ),
            (
                CONFLICT,
                Code::InvalidRequest,
                "Package p and what is to be installed with it contradict",
            ),
            (
                PYTHON,
                Code::UpstreamError,
                "Package p needs another version of Python",
            ),
            (
                BUILD,
                Code::UpstreamError,
                "Package p could not be built: the build step `Getting requirements to build wheel` of q failed",
            ),
            (
                WHEEL,
                Code::UpstreamError,
                "Package p could not be built: the build step `Building wheel for q (pyproject.toml)` of q failed",
            ),
            (
                UNREACHABLE,
                Code::UpstreamError,
                "uv cannot reach its registry",
            ),
            (
                UNTRUSTED,
                Code::UpstreamError,
                "uv does not trust the registry's certificate",
            ),
            (
                REFUSED,
                Code::UpstreamError,
                "The package index does not let us in",
            ),
            (
                URL,
                Code::UpstreamError,
                "q comes from a URL and not from the package index",
            ),
            (
                HASH,
                Code::UpstreamError,
                "The files of the package index for p differ from its lockfile",
            ),
            (FULL, Code::UpstreamError, "The worker's disk is full"),
        ] {
            let failure = uv_failure(&name, Some("9"), &output(text)).expect(text);
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.starts_with(sentence), "{}", failure.message);
            assert_eq!(failure.details.as_deref(), Some(text));
        }
    }

    #[test]
    fn an_unclear_failure_is_left_to_pip() {
        let name: PackageName = "p".parse().expect("a name");
        for text in [
            "",
            "error: unexpected argument '--no-such' found",
            "error: Failed to fetch: http://h/x\n  cause: HTTP status server error (501 Unsupported method ('HEAD'))",
            "error: No interpreter found at path `/no/such/python`",
            "error: No solution found when resolving dependencies\n  cause: Because p==1.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require p, we can conclude that your requirements are unsatisfiable.",
        ] {
            assert!(uv_failure(&name, None, &output(text)).is_none(), "{text}");
        }
    }
}
