//! Finds the reason for a failure of npm.

use super::diagnose::{Diagnosis, Finding, not_connected, not_trusted, not_writable, upstream};
use super::process::{ProcessOutput, is_npm_error};
use crate::core::failure::{Code, Failure};
use crate::core::names::PackageName;

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
        Some("EINTEGRITY") => format!("The files that npm got for {name} differ from its lockfile"),
        Some("EBADENGINE") => format!("Package {name} needs another version of Node.js"),
        _ if diagnosis.has_any(&["ERR_REQUIRE_ESM", "npm does not support Node.js"]) => {
            format!("Package {name} needs another version of Node.js")
        }
        _ => return None,
    };
    Some(upstream(sentence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::install::diagnose::output;

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
}
