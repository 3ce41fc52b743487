//! Finds the reason for a failure of npm, pip or venv, and describes it in one sentence. The last
//! lines of the program are the details of the failure.

use std::io;
use std::path::Path;

use super::process::{ProcessOutput, is_npm_error};
use crate::core::failure::{Code, Failure};
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
/// Codes with which npm says that its own request to the registry has failed.
const NPM_NOT_CONNECTED: [&str; 9] = [
    "ENOTFOUND",
    "ECONNREFUSED",
    "ECONNRESET",
    "EAI_AGAIN",
    "ETIMEDOUT",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ERR_SOCKET_TIMEOUT",
    "EIDLETIMEOUT",
];
/// Codes with which npm says that the certificate of the registry is not trusted.
const NPM_NOT_TRUSTED: [&str; 4] = [
    "SELF_SIGNED_CERT",
    "UNABLE_TO_GET_ISSUER",
    "UNABLE_TO_VERIFY",
    "CERT_HAS_EXPIRED",
];
const DISK_FULL: [&str; 3] = ["ENOSPC", "No space left on device", "Disk quota exceeded"];
/// The parts of a pip line around the name of a build step.
const PIP_STEP_START: &str = "× ";
const PIP_STEP_END: &str = " did not run successfully";
/// The step in which pip installs what a build needs. It is a request to the package index.
const PIP_BUILD_DEPENDENCIES: &str = "pip subprocess to install build dependencies";
const PIP_NOT_FOUND: &str = "Could not find a version that satisfies the requirement ";

/// A reason for a failure: its code and its sentence.
struct Finding {
    code: Code,
    sentence: String,
}

/// The output of a program that has failed.
struct Diagnosis<'a> {
    output: &'a ProcessOutput,
}

/// Returns the failure of npm. `version` is the version that the caller asked for.
pub fn npm_failure(name: &PackageName, version: Option<&str>, output: &ProcessOutput) -> Failure {
    let diagnosis = Diagnosis { output };
    let finding = diagnosis
        .full_disk()
        .or_else(|| npm_script_failed(&diagnosis, name))
        .or_else(|| npm_request_failed(&diagnosis))
        .or_else(|| npm_package_missing(&diagnosis, name))
        .or_else(|| npm_version_missing(&diagnosis, name, version))
        .or_else(|| npm_other_cause(&diagnosis, name))
        .unwrap_or_else(|| upstream(format!("npm could not install {name}")));
    diagnosis.failure(finding)
}

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

/// Returns the failure of a virtual environment.
pub fn venv_failure(python: &str, output: &ProcessOutput) -> Failure {
    let diagnosis = Diagnosis { output };
    let has_no_venv = diagnosis.has_any(&[
        "ensurepip is not available",
        "No module named venv",
        "No module named ensurepip",
    ]);
    let finding = diagnosis.full_disk().unwrap_or_else(|| {
        upstream(if diagnosis.has_any(&["Permission denied"]) {
            not_writable("Python")
        } else if has_no_venv {
            format!(
                "{python} cannot make virtual environments: it has no venv module (Debian: python3-venv)"
            )
        } else {
            format!("{python} cannot make virtual environments")
        })
    });
    diagnosis.failure(finding)
}

/// Returns the failure of a folder that the worker cannot use.
pub fn folder_failure(folder: &Path, error: &io::Error) -> Failure {
    let is_full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    let sentence = if is_full {
        "The worker's disk is full".into()
    } else {
        format!(
            "The worker cannot use the folder {}: {error}",
            folder.display()
        )
    };
    Failure::new(Code::UpstreamError, sentence)
}

fn upstream(sentence: String) -> Finding {
    Finding {
        code: Code::UpstreamError,
        sentence,
    }
}

fn not_writable(tool: &str) -> String {
    format!("{tool} may not write where it must; is PACKAGES_DIR the worker's own?")
}

fn not_connected(tool: &str) -> String {
    format!(
        "{tool} cannot reach its registry: is there a network, and is the registry's URL right?"
    )
}

fn not_trusted(tool: &str) -> String {
    format!(
        "{tool} does not trust the registry's certificate; NODE_EXTRA_CA_CERTS or PIP_CERT may name another authority"
    )
}

impl Diagnosis<'_> {
    fn line_with(&self, text: &str) -> Option<&str> {
        self.output
            .lines
            .iter()
            .map(String::as_str)
            .find(|line| line.contains(text))
    }

    fn has_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.line_with(text).is_some())
    }

    /// Returns the rest of the first npm error line that begins with this word, such as `code`.
    fn npm_field(&self, word: &str) -> Option<&str> {
        self.output.lines.iter().find_map(|line| {
            let text = line
                .strip_prefix("npm error ")
                .or_else(|| line.strip_prefix("npm ERR! "))?;
            text.strip_prefix(word)?.strip_prefix(' ')
        })
    }

    fn full_disk(&self) -> Option<Finding> {
        self.has_any(&DISK_FULL)
            .then(|| upstream("The worker's disk is full".into()))
    }

    /// Returns the failure with the error lines of npm, or with the last lines of another program.
    fn failure(&self, finding: Finding) -> Failure {
        let lines = self.output.lines.iter().map(String::as_str);
        let mut shown: Vec<_> = lines.clone().filter(|line| is_npm_error(line)).collect();
        if shown.is_empty() {
            shown = lines.collect();
        }
        Failure::new(finding.code, finding.sentence).with_details(Some(shown.join("\n")))
    }
}

/// Finds an install script that has failed. npm names the folder of its package and its command.
fn npm_script_failed(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let is_script = diagnosis.npm_field("command").is_some()
        || diagnosis.npm_field("code") == Some("ELIFECYCLE")
        || diagnosis.has_any(&["gyp ERR!"]);
    if !is_script {
        return None;
    }
    let package = diagnosis
        .npm_field("path")
        .and_then(|path| path.rsplit_once("node_modules/"))
        .map_or(name.as_str(), |(_, package)| package);
    // `npm error command sh -c node install.js`, with the shell of `script-shell`.
    let command = diagnosis.output.lines.iter().find_map(|line| {
        let (start, command) = line.split_once(" -c ")?;
        let is_command = is_npm_error(start) && start.contains(" command ");
        is_command.then_some(command.trim())
    });
    let script = command.map_or(String::new(), |command| format!(": {command}"));
    Some(upstream(format!(
        "Package {name} could not be built: an install script of {package} failed{script}"
    )))
}

/// Finds a failed request of npm itself. The words of install scripts do not count.
fn npm_request_failed(diagnosis: &Diagnosis) -> Option<Finding> {
    let code = diagnosis.npm_field("code")?;
    let sentence = if NPM_NOT_CONNECTED.contains(&code) {
        not_connected("npm")
    } else if NPM_NOT_TRUSTED.iter().any(|known| code.starts_with(known)) {
        not_trusted("npm")
    } else if matches!(code, "EACCES" | "EROFS" | "EPERM") {
        not_writable("npm")
    } else {
        return None;
    };
    Some(upstream(sentence))
}

fn npm_package_missing(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    if diagnosis.npm_field("code") != Some("E404") {
        return None;
    }
    let text = name.as_str();
    // npm writes the name as it is, or percent-encoded as in a URL.
    let is_package_itself = diagnosis.has_any(&[
        &format!("'{text}@"),
        &format!("'{text}'"),
        &text.replace('/', "%2f"),
    ]);
    Some(if is_package_itself {
        Finding {
            code: Code::PackageNotFound,
            sentence: format!("npm has no package {name}"),
        }
    } else {
        upstream(format!("npm has not all that {name} needs"))
    })
}

fn npm_version_missing(
    diagnosis: &Diagnosis,
    name: &PackageName,
    version: Option<&str>,
) -> Option<Finding> {
    if !matches!(diagnosis.npm_field("code"), Some("ETARGET" | "ENOVERSIONS")) {
        return None;
    }
    let is_package_itself = diagnosis.has_any(&[&format!("for {name}@"), &format!("for {name}.")]);
    Some(if is_package_itself {
        let version = version.unwrap_or("latest");
        Finding {
            code: Code::InvalidRequest,
            sentence: format!("npm has no version {version} of {name}"),
        }
    } else {
        upstream(format!("npm has not all versions that {name} needs"))
    })
}

fn npm_other_cause(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let sentence = match diagnosis.npm_field("code") {
        Some("E401" | "E403" | "ENEEDAUTH") => format!(
            "The registry of npm does not let us have {name}: its credentials are missing or wrong"
        ),
        Some("EINTEGRITY") => format!("What npm got for {name} is not what its lock names"),
        Some("EBADENGINE") => format!("Package {name} needs another version of Node.js"),
        _ if diagnosis.has_any(&["ERR_REQUIRE_ESM", "npm does not support Node.js"]) => {
            format!("Package {name} needs another version of Node.js")
        }
        _ => return None,
    };
    Some(upstream(sentence))
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
    let package = failed_pip_package(diagnosis);
    let culprit = package.map_or(String::new(), |package| format!(" of {package}"));
    let step = step.map_or("a build step".into(), |step| {
        format!("the build step `{step}`")
    });
    Some(upstream(format!(
        "Package {name} could not be built: {step}{culprit} failed"
    )))
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
        "The package index does not let us in: its credentials are missing or wrong".into()
    } else {
        return None;
    };
    Some(upstream(sentence))
}

fn pip_conflict(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let is_conflict = diagnosis.has_any(&["ResolutionImpossible", "conflicting dependencies"]);
    is_conflict.then(|| Finding {
        code: Code::InvalidRequest,
        sentence: format!(
            "Package {name} and what is to be installed with it contradict each other"
        ),
    })
}

fn pip_other_python(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    let needs_python = diagnosis.has_any(&[
        "requires a different Python",
        "require a different python version",
    ]) && diagnosis.has_any(&["No matching distribution", "different Python:"]);
    needs_python.then(|| {
        upstream(format!(
            "Package {name} needs another version of Python; PYTHON_BIN says which one is used"
        ))
    })
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
        return Some(upstream(format!(
            "The package index has not all that {name} needs"
        )));
    }
    Some(if line.contains("(from versions: none)") {
        Finding {
            code: Code::PackageNotFound,
            sentence: format!(
                "The package index has no package {name}, or is none: an index ends in /simple"
            ),
        }
    } else {
        let version = version.unwrap_or("latest");
        Finding {
            code: Code::InvalidRequest,
            sentence: format!("The package index has no version {version} of {name}"),
        }
    })
}

fn pip_wrong_hash(diagnosis: &Diagnosis, name: &PackageName) -> Option<Finding> {
    diagnosis.has_any(&["DO NOT MATCH THE HASHES"]).then(|| {
        upstream(format!(
            "What the package index gave for {name} is not what its lock names; a worker needs the Python that it was resolved with"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::install::process::ExitKind;

    fn output(text: &str) -> ProcessOutput {
        ProcessOutput {
            stdout: vec![],
            lines: text.lines().map(str::to_owned).collect(),
            exit: ExitKind::Failure,
        }
    }

    #[test]
    fn failures_of_npm_are_described() {
        let name: PackageName = "@s/p".parse().expect("a name");
        for (text, code, sentence) in [
            (
                "npm error code E404\nnpm error 404  The requested resource '@s/p@latest' could not be found",
                Code::PackageNotFound,
                "npm has no package @s/p",
            ),
            (
                "npm error code E404\nnpm error 404 Not Found - GET https://h/other",
                Code::UpstreamError,
                "npm has not all that @s/p needs",
            ),
            (
                "npm error code ETARGET\nnpm error notarget No matching version found for @s/p@9.9.9.",
                Code::InvalidRequest,
                "npm has no version 9.9.9 of @s/p",
            ),
            (
                "npm error code ECONNREFUSED",
                Code::UpstreamError,
                "npm cannot reach its registry",
            ),
            (
                "npm error code ENOSPC",
                Code::UpstreamError,
                "The worker's disk is full",
            ),
            (
                "npm error code 1\nnpm error path /v/1/node_modules/@t/q\nnpm error command failed\nnpm error command sh -c node-gyp rebuild",
                Code::UpstreamError,
                "Package @s/p could not be built: an install script of @t/q failed: node-gyp rebuild",
            ),
            (
                "npm error code 1\nnpm error path /v/1/node_modules/@s/p\nnpm error command failed\nnpm error command sh -c npx playwright install\nnpm error Error: getaddrinfo ENOTFOUND cdn.example ECONNREFUSED",
                Code::UpstreamError,
                "Package @s/p could not be built: an install script of @s/p failed: npx playwright install",
            ),
        ] {
            let failure = npm_failure(&name, Some("9.9.9"), &output(text));
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.starts_with(sentence), "{}", failure.message);
            assert_eq!(failure.details.as_deref(), Some(text));
        }
    }

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
