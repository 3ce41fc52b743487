//! The output of npm and pip.

use proptest::prelude::*;

use super::{check, like, within_memory};
use mcp_api::core::names::PackageName;
use mcp_api::workers::install::npm_failure::npm_failure;
use mcp_api::workers::install::pip_failure::pip_failure;
use mcp_api::workers::install::process::{ExitKind, ProcessOutput};

const NPM: &[&str] = &[
    "npm error code E404\nnpm error 404 Not Found - GET https://registry.npmjs.org/none - Not found\n",
    "npm error code ETARGET\nnpm error notarget No matching version found for a@9.9.9.\n",
    "npm error code 1\nnpm error path /x/node_modules/b\nnpm error command failed\nnpm error command sh -c node install.js\n",
    "npm error code EACCES\nnpm error syscall mkdir\n",
    "npm error code ENOSPC\nnpm error nospc There appears to be insufficient space on your system\n",
    "npm ERR! code ENOTFOUND\nnpm ERR! errno ENOTFOUND\nnpm ERR! network request to https://h failed\n",
    "npm warn deprecated a@1.0.0\n",
];

const PIP: &[&str] = &[
    "Collecting a\n  Downloading a-1.0.tar.gz (1.0 kB)\n",
    "ERROR: Could not find a version that satisfies the requirement a==9 (from versions: 1.0, 2.0)\nERROR: No matching distribution found for a==9\n",
    "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  Expected sha256 aa\n       Got        bb\n",
    "  error: subprocess-exited-with-error\n  × Building wheel for b (pyproject.toml) did not run successfully.\n  │ exit code: 1\n",
    "ERROR: Failed building wheel for b\nERROR: Cannot install a and b because these package versions have conflicting dependencies.\n",
    "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'\n",
    "ERROR: Ignored the following versions that require a different python version: 1.0 Requires-Python >=3.14\n",
];

/// Returns the output as the collector keeps it: at most 60 lines of at most 300 characters.
fn output(bytes: &[u8]) -> ProcessOutput {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(|line| {
        let printable = line.chars().filter(|character| !character.is_control());
        printable.take(300).collect()
    });
    ProcessOutput {
        stdout: vec![],
        lines: lines.take(60).collect(),
        exit: ExitKind::Failure,
    }
}

#[test]
fn any_output_of_npm_or_pip_is_one_failure() {
    let input = || (like(NPM), like(PIP), any::<bool>());
    check(
        input,
        |(npm, pip, has_version): (Vec<u8>, Vec<u8>, bool)| {
            let name: PackageName = "a".parse().expect("a name");
            let version = has_version.then_some("9.9.9");
            within_memory(npm.len() + pip.len(), 200, || {
                for failure in [
                    npm_failure(&name, version, &output(&npm)),
                    pip_failure(&name, version, &output(&pip)),
                    npm_failure(&name, version, &output(&pip)),
                ] {
                    let sentence = failure.message.len();
                    assert!(
                        sentence > 0 && sentence < 4096,
                        "{sentence} bytes in a sentence"
                    );
                }
            });
        },
    );
}
