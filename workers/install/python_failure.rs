//! The sentences for failed installations of Python packages. pip and uv share them, so that a caller reads one sentence
//! for one cause.

use super::diagnose::{Finding, upstream};
use crate::core::failure::Code;
use crate::core::names::PackageName;

/// The package index does not have the package.
pub(super) fn package_missing(name: &PackageName) -> Finding {
    Finding {
        code: Code::PackageNotFound,
        sentence: format!(
            "The package index has no package {name}, or the URL is no package index; the URL of an index ends in /simple"
        ),
    }
}

/// The package index does not have the version that the caller asked for.
pub(super) fn version_missing(name: &PackageName, version: Option<&str>) -> Finding {
    let version = version.unwrap_or("latest");
    Finding {
        code: Code::InvalidRequest,
        sentence: format!("The package index has no version {version} of {name}"),
    }
}

/// The package index does not have a package that `name` needs.
pub(super) fn dependency_missing(name: &PackageName) -> Finding {
    upstream(format!("The package index has not all that {name} needs"))
}

/// Two requirements exclude each other.
pub(super) fn conflict(name: &PackageName) -> Finding {
    Finding {
        code: Code::InvalidRequest,
        sentence: format!(
            "Package {name} and what is to be installed with it contradict each other"
        ),
    }
}

/// The package does not support the worker's Python.
pub(super) fn other_python(name: &PackageName) -> Finding {
    upstream(format!(
        "Package {name} needs another version of Python; PYTHON_BIN says which one is used"
    ))
}

/// The package index refuses the credentials.
pub(super) fn not_let_in() -> Finding {
    upstream("The package index does not let us in: its credentials are missing or wrong".into())
}

/// A downloaded file has another hash than the lockfile.
pub(super) fn wrong_hash(name: &PackageName) -> Finding {
    upstream(format!(
        "The files of the package index for {name} differ from its lockfile; a worker needs the Python version that resolved the package"
    ))
}

/// A build step of `culprit` has failed, which is the package or one that it needs.
pub(super) fn build_failed(
    name: &PackageName,
    step: Option<&str>,
    culprit: Option<&str>,
) -> Finding {
    let culprit = culprit.map_or(String::new(), |culprit| format!(" of {culprit}"));
    let step = step.map_or("a build step".into(), |step| {
        format!("the build step `{step}`")
    });
    upstream(format!(
        "Package {name} could not be built: {step}{culprit} failed"
    ))
}
