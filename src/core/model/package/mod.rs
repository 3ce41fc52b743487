//! Packages: servers that a worker installs from npm or PyPI. A recipe reproduces the same files on every worker.

mod check;
mod folder;
mod version;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::check::{check_module, check_requirement, python_name};
pub use self::folder::{FOLDER, PackageDirs};
pub use self::version::is_newer;
use super::remote::split_user_info;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::names::PackageName;

/// The installed package of a server, and its recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// The name in the registry.
    pub name: PackageName,
    /// The installed version, never a tag.
    pub version: String,
    pub source: Source,
    /// Absent if no files are installed: a server behind a URL may have a package that no registry knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Recipe>,
}

/// The registry of a package, and the options of that registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "runtime", rename_all = "snake_case")]
pub enum Source {
    /// npm.
    Node,
    /// PyPI, or another index with the same interface.
    Python(PythonOptions),
}

/// The options that a user sets for a Python package.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PythonOptions {
    /// The module that `python -m` runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    /// The requirements that a worker installs with the package, also at an upgrade.
    #[serde(default)]
    pub dependencies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_url: Option<PackageIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_index_url: Option<PackageIndex>,
}

/// A package index: its URL, in which `***` replaces the user info, and the id of the sealed user info.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageIndex {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_info: Option<ValueId>,
}

/// The data that reproduces the same files on every worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    /// The digest of all inputs of the build, which names the folder of the files.
    pub digest: String,
    /// The id of the lockfile in the Vault: the exact version of every dependency. A lockfile may be large, and it may
    /// hold URLs with credentials.
    pub lock: ValueId,
    /// The entry point that the package declares, absent if a user has set the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryPoint>,
}

/// A command line in the folder of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EntryPoint {
    pub command: String,
    pub args: Vec<String>,
}

/// The package of a server as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstalledPackage {
    pub package: Package,
    /// The time of the installation, in milliseconds since 1970.
    pub installed: u64,
    /// The time of the last upgrade, in milliseconds since 1970.
    pub upgraded: Option<u64>,
    /// The newest version that the last check has found.
    pub latest: Option<String>,
}

impl InstalledPackage {
    /// Returns true if the last check has found a newer version.
    pub fn update_available(&self) -> bool {
        self.latest
            .as_deref()
            .is_some_and(|latest| is_newer(&self.package.source, latest, &self.package.version))
    }
}

impl Source {
    /// Returns the value of `runtime` in requests and responses.
    pub fn runtime(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python(_) => "python",
        }
    }

    /// Returns the name of the registry for messages.
    pub fn registry(&self) -> &'static str {
        match self {
            Self::Node => "npm",
            Self::Python(_) => "the package index",
        }
    }
}

impl PythonOptions {
    /// Returns the indexes, each with its field name in requests.
    pub fn indexes(&self) -> impl Iterator<Item = (&'static str, &PackageIndex)> {
        let index = self.index_url.iter().map(|index| ("pipIndexUrl", index));
        let extra_index = self.extra_index_url.iter();
        index.chain(extra_index.map(|index| ("pipExtraIndexUrl", index)))
    }

    /// Checks the options.
    ///
    /// # Errors
    /// The failure names the field and the rule.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(module) = &self.module {
            check_module(module)?;
        }
        for requirement in &self.dependencies {
            check_requirement(requirement)?;
        }
        for (field, index) in self.indexes() {
            split_index(field, &index.url)?;
        }
        Ok(())
    }
}

impl Package {
    /// Returns the ids of all values of the package in the Vault.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let python = match &self.source {
            Source::Node => None,
            Source::Python(python) => Some(python),
        };
        let indexes = python
            .into_iter()
            .flat_map(|python| python.indexes().filter_map(|(_, index)| index.user_info));
        indexes.chain(self.recipe.iter().map(|recipe| recipe.lock))
    }
}

/// Splits the URL of an index into the URL that a response may show and its user info.
///
/// # Errors
/// The failure names the field and never repeats the URL.
pub fn split_index(field: &str, url: &str) -> Result<(String, Option<String>), Failure> {
    let no_url = || {
        Failure::invalid(format!(
            "{field} must be an absolute http:// or https:// URL, such as https://example.com/simple"
        ))
    };
    if url.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err(no_url());
    }
    split_user_info(url).map_err(|_| no_url())
}
