//! Why npm or pip failed, in one sentence. Their own last lines are its details.

use std::io;
use std::path::Path;

use super::process::ProcessOutput;
use crate::core::failure::{Code, Failure};
use crate::core::names::PackageName;

/// What both say where no registry can be reached.
const UNREACHED: [&str; 14] = [
    "ENOTFOUND",
    "ECONNREFUSED",
    "ECONNRESET",
    "EAI_AGAIN",
    "ETIMEDOUT",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ERR_SOCKET_TIMEOUT",
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Connection refused",
    "Name or service not known",
    "Temporary failure in name resolution",
];
const UNTRUSTED: [&str; 5] = [
    "SELF_SIGNED_CERT",
    "UNABLE_TO_GET_ISSUER",
    "UNABLE_TO_VERIFY",
    "CERT_HAS_EXPIRED",
    "CERTIFICATE_VERIFY_FAILED",
];
const FULL: [&str; 3] = ["ENOSPC", "No space left on device", "Disk quota exceeded"];
const FORBIDDEN: [&str; 3] = ["EACCES", "EROFS", "Permission denied"];

/// Why npm failed.
pub fn npm(name: &PackageName, version: Option<&str>, ended: &ProcessOutput) -> Failure {
    let says = Diagnosis(ended);
    let own = name.as_str();
    if let Some(failure) = says.of_the_machine("npm") {
        return failure;
    }
    if says.any(&["code E404"]) {
        // It says which one, escaped as in a URL or not.
        let about_it = says.any(&[
            &format!("'{own}@"),
            &format!("'{own}'"),
            &own.replace('/', "%2f"),
        ]);
        let unknown = if about_it {
            format!("npm has no package {own}")
        } else {
            format!("npm has not all that {own} needs")
        };
        return says.failure(
            if about_it {
                Code::PackageNotFound
            } else {
                Code::UpstreamError
            },
            unknown,
        );
    }
    if says.any(&["code ETARGET", "code ENOVERSIONS"]) {
        let asked = version.unwrap_or("latest");
        let own_version = says.any(&[&format!("for {own}@"), &format!("for {own}.")]);
        let unknown = if own_version {
            format!("npm has no version {asked} of {own}")
        } else {
            format!("npm has not all versions that {own} needs")
        };
        return says.failure(
            if own_version {
                Code::InvalidRequest
            } else {
                Code::UpstreamError
            },
            unknown,
        );
    }
    if says.any(&["code E401", "code E403", "code ENEEDAUTH"]) {
        return says.failure(
            Code::UpstreamError,
            format!("The registry of npm does not let us have {own}: its credentials are missing or wrong"),
        );
    }
    if says.any(&["code EINTEGRITY"]) {
        return says.failure(
            Code::UpstreamError,
            format!("What npm got for {own} is not what its lock names"),
        );
    }
    if says.any(&[
        "code ELIFECYCLE",
        "npm error command sh -c",
        "npm error command failed",
        "gyp ERR!",
    ]) {
        return says.failure(
            Code::UpstreamError,
            format!("Package {own} could not be built: an install script failed"),
        );
    }
    if says.any(&[
        "code EBADENGINE",
        "ERR_REQUIRE_ESM",
        "npm does not support Node.js",
    ]) {
        return says.failure(
            Code::UpstreamError,
            format!("Package {own} needs another version of Node.js"),
        );
    }
    says.failure(Code::UpstreamError, format!("npm could not install {own}"))
}

/// Why pip failed.
pub fn pip(name: &PackageName, version: Option<&str>, ended: &ProcessOutput) -> Failure {
    let says = Diagnosis(ended);
    let own = name.as_str();
    if let Some(failure) = says.of_the_machine("pip") {
        return failure;
    }
    if says.any(&[
        "401 Error",
        "403 Error",
        "Credentials not correct",
        "401 Client Error",
        "403 Client Error",
    ]) {
        return says.failure(
            Code::UpstreamError,
            "The package index does not let us in: its credentials are missing or wrong".into(),
        );
    }
    if says.any(&["ResolutionImpossible", "conflicting dependencies"]) {
        return says.failure(
            Code::InvalidRequest,
            format!("Package {own} and what is to be installed with it contradict each other"),
        );
    }
    if says.any(&[
        "requires a different Python",
        "require a different python version",
    ]) && says.any(&["No matching distribution", "different Python:"])
    {
        return says.failure(
            Code::UpstreamError,
            format!(
                "Package {own} needs another version of Python; PYTHON_BIN says which one is used"
            ),
        );
    }
    if let Some(line) = says.line("Could not find a version that satisfies the requirement ") {
        let about_it = line.split("requirement ").nth(1).is_some_and(|rest| {
            let found: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
                .collect();
            found.eq_ignore_ascii_case(own)
        });
        let none = line.contains("(from versions: none)");
        return match (about_it, none) {
            (true, true) => says.failure(
                Code::PackageNotFound,
                format!(
                    "The package index has no package {own}, or is none: an index ends in /simple"
                ),
            ),
            (true, false) => says.failure(
                Code::InvalidRequest,
                format!(
                    "The package index has no version {} of {own}",
                    version.unwrap_or("latest")
                ),
            ),
            (false, _) => says.failure(
                Code::UpstreamError,
                format!("The package index has not all that {own} needs"),
            ),
        };
    }
    if says.any(&["DO NOT MATCH THE HASHES"]) {
        return says.failure(Code::UpstreamError, format!("What the package index gave for {own} is not what its lock names; a worker needs the Python that it was resolved with"));
    }
    if says.any(&[
        "subprocess-exited-with-error",
        "metadata-generation-failed",
        "Failed building wheel",
        "Failed to build",
    ]) {
        return says.failure(
            Code::UpstreamError,
            format!("Package {own} could not be built"),
        );
    }
    says.failure(Code::UpstreamError, format!("pip could not install {own}"))
}

/// Why no virtual environment was made.
pub fn venv(python: &str, ended: &ProcessOutput) -> Failure {
    let says = Diagnosis(ended);
    if let Some(failure) = says.of_the_machine("Python") {
        return failure;
    }
    let why = if says.any(&[
        "ensurepip is not available",
        "No module named venv",
        "No module named ensurepip",
    ]) {
        format!(
            "{python} cannot make virtual environments: it has no venv module (Debian: python3-venv)"
        )
    } else {
        format!("{python} cannot make virtual environments")
    };
    says.failure(Code::UpstreamError, why)
}

/// Why a folder cannot be used.
pub fn disk(folder: &Path, error: &io::Error) -> Failure {
    let sentence = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "The worker's disk is full".into()
        }
        _ => format!(
            "The worker cannot use the folder {}: {error}",
            folder.display()
        ),
    };
    Failure::new(Code::UpstreamError, sentence)
}

/// What a program said.
struct Diagnosis<'a>(&'a ProcessOutput);

impl Diagnosis<'_> {
    fn line(&self, wanted: &str) -> Option<&str> {
        self.0
            .lines
            .iter()
            .map(String::as_str)
            .find(|line| line.contains(wanted))
    }

    fn any(&self, wanted: &[&str]) -> bool {
        wanted.iter().any(|wanted| self.line(wanted).is_some())
    }

    /// What can happen to every program.
    fn of_the_machine(&self, tool: &str) -> Option<Failure> {
        let sentence = if self.any(&FULL) {
            "The worker's disk is full".into()
        } else if self.any(&UNREACHED) {
            format!(
                "{tool} cannot reach its registry: is there a network, and is the registry's URL right?"
            )
        } else if self.any(&UNTRUSTED) {
            format!(
                "{tool} does not trust the registry's certificate; NODE_EXTRA_CA_CERTS or PIP_CERT may name another authority"
            )
        } else if self.any(&FORBIDDEN) {
            format!("{tool} may not write where it must; is PACKAGES_DIR the worker's own?")
        } else {
            return None;
        };
        Some(self.failure(Code::UpstreamError, sentence))
    }

    /// Its complaints where it marks them as such; otherwise its last lines.
    fn failure(&self, code: Code, sentence: String) -> Failure {
        let marked = |line: &&String| line.starts_with("npm error") || line.starts_with("npm ERR!");
        let marked: Vec<_> = self
            .0
            .lines
            .iter()
            .filter(marked)
            .map(String::as_str)
            .collect();
        let all = || self.0.lines.iter().map(String::as_str).collect();
        let lines: Vec<_> = if marked.is_empty() { all() } else { marked };
        Failure::new(code, sentence).with_details(Some(lines.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::install::process::ExitKind;

    fn ended(text: &str) -> ProcessOutput {
        ProcessOutput {
            answer: vec![],
            lines: text.lines().map(str::to_owned).collect(),
            how: ExitKind::Badly,
        }
    }

    #[test]
    fn npm_is_understood() {
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
                "npm error code 1\nnpm error command sh -c node-gyp rebuild",
                Code::UpstreamError,
                "Package @s/p could not be built",
            ),
        ] {
            let failure = npm(&name, Some("9.9.9"), &ended(text));
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.starts_with(sentence), "{}", failure.message);
            assert_eq!(failure.details.as_deref(), Some(text));
        }
    }

    #[test]
    fn pip_is_understood() {
        let name: PackageName = "p".parse().expect("a name");
        let not_found = "ERROR: Could not find a version that satisfies the requirement ";
        for (text, code, sentence) in [
            (
                format!("{not_found}p (from versions: none)"),
                Code::PackageNotFound,
                "The package index has no package p",
            ),
            (
                format!("{not_found}p==9 (from versions: 1, 2)"),
                Code::InvalidRequest,
                "The package index has no version 9 of p",
            ),
            (
                format!("{not_found}q<1 (from versions: 1, 2)"),
                Code::UpstreamError,
                "The package index has not all that p needs",
            ),
            (
                format!(
                    "WARNING: Retrying: NewConnectionError\n{not_found}p (from versions: none)"
                ),
                Code::UpstreamError,
                "pip cannot reach its registry",
            ),
            (
                "error: subprocess-exited-with-error".into(),
                Code::UpstreamError,
                "Package p could not be built",
            ),
        ] {
            let failure = pip(&name, Some("9"), &ended(&text));
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.starts_with(sentence), "{}", failure.message);
        }
    }
}
