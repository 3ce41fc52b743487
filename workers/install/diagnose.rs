//! Describes the failures of npm, pip and venv in one sentence each. The last lines of the program are
//! the details of the failure.

use std::io;
use std::path::Path;

use super::process::{ProcessOutput, is_npm_error};
use crate::core::failure::{Code, Failure};

const DISK_FULL: [&str; 3] = ["ENOSPC", "No space left on device", "Disk quota exceeded"];

/// A reason for a failure: its code and its sentence.
pub(super) struct Finding {
    pub code: Code,
    pub sentence: String,
}

/// The output of a program that has failed.
pub(super) struct Diagnosis<'a> {
    pub output: &'a ProcessOutput,
}

/// Returns the failure of a virtual environment.
pub(super) fn venv_failure(python: &str, output: &ProcessOutput) -> Failure {
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
pub(super) fn folder_failure(folder: &Path, error: &io::Error) -> Failure {
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

pub(super) fn upstream(sentence: String) -> Finding {
    Finding {
        code: Code::UpstreamError,
        sentence,
    }
}

pub(super) fn not_writable(tool: &str) -> String {
    format!("{tool} may not write where it must; is PACKAGES_DIR the worker's own?")
}

pub(super) fn not_connected(tool: &str) -> String {
    format!(
        "{tool} cannot reach its registry: is there a network, and is the registry's URL right?"
    )
}

pub(super) fn not_trusted(tool: &str) -> String {
    format!(
        "{tool} does not trust the registry's certificate; NODE_EXTRA_CA_CERTS or PIP_CERT may name another authority"
    )
}

impl Diagnosis<'_> {
    pub(super) fn line_with(&self, text: &str) -> Option<&str> {
        self.output
            .lines
            .iter()
            .map(String::as_str)
            .find(|line| line.contains(text))
    }

    pub(super) fn has_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.line_with(text).is_some())
    }

    /// Returns the rest of the first npm error line that begins with this word, such as `code`.
    pub(super) fn npm_field(&self, word: &str) -> Option<&str> {
        self.output.lines.iter().find_map(|line| {
            let text = line
                .strip_prefix("npm error ")
                .or_else(|| line.strip_prefix("npm ERR! "))?;
            text.strip_prefix(word)?.strip_prefix(' ')
        })
    }

    pub(super) fn full_disk(&self) -> Option<Finding> {
        self.has_any(&DISK_FULL)
            .then(|| upstream("The worker's disk is full".into()))
    }

    /// Returns the failure with the error lines of npm, or with the last lines of another program.
    pub(super) fn failure(&self, finding: Finding) -> Failure {
        let lines = self.output.lines.iter().map(String::as_str);
        let mut shown: Vec<_> = lines.clone().filter(|line| is_npm_error(line)).collect();
        if shown.is_empty() {
            shown = lines.collect();
        }
        Failure::new(finding.code, finding.sentence).with_details(Some(shown.join("\n")))
    }
}

#[cfg(test)]
pub fn output(text: &str) -> ProcessOutput {
    ProcessOutput {
        stdout: vec![],
        lines: text.lines().map(str::to_owned).collect(),
        exit: super::process::ExitKind::Failure,
    }
}
