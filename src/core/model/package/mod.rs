//! Packages: MCP servers that were installed from npm or PyPI, as a recipe every worker builds alike.

mod check;
mod folder;
mod version;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::check::{check_module, check_requirement, python_name};
pub use self::folder::{FOLDER, PackageDirs};
pub use self::version::newer;
use super::remote::split_user_info;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;

/// What was installed for a server, and how it is installed again elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// As its registry calls it.
    pub name: crate::core::names::PackageName,
    /// The version that is installed, never a tag.
    pub version: String,
    pub source: Source,
    /// Absent where nothing is on disk: a server behind a URL may have a package that no registry knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Recipe>,
}

/// Where a package comes from, and what only packages from there have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "runtime", rename_all = "snake_case")]
pub enum Source {
    /// npm.
    Node,
    /// PyPI, or an index like it.
    Python(PythonOptions),
}

/// What a user says of a Python package.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PythonOptions {
    /// What `python -m` runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    #[serde(default)]
    pub args: Vec<String>,
    /// Requirements that are installed with it, also by an upgrade.
    #[serde(default)]
    pub dependencies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_url: Option<PackageIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_index_url: Option<PackageIndex>,
}

/// A package index: its URL without user info (`***` stands where there is some), and where that lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageIndex {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_info: Option<ValueId>,
}

/// What makes the same files everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    /// Of everything that decides which files there will be. It names their folder.
    pub digest: String,
    /// Where the lock lies in the Vault: the exact version of every dependency. It may be large, and name URLs.
    pub lock: ValueId,
    /// How the package said it is to be started. Absent where a user said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryPoint>,
}

/// A command line within a package's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EntryPoint {
    pub command: String,
    pub args: Vec<String>,
}

/// A package of a server, as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstalledPackage {
    pub package: Package,
    /// Milliseconds since 1970.
    pub installed: u64,
    pub upgraded: Option<u64>,
    /// The newest version that a check has found.
    pub latest: Option<String>,
}

impl InstalledPackage {
    pub fn update_available(&self) -> bool {
        self.latest
            .as_deref()
            .is_some_and(|latest| newer(&self.package.source, latest, &self.package.version))
    }
}

impl Source {
    /// As users spell it.
    pub fn runtime(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python(_) => "python",
        }
    }

    pub fn registry(&self) -> &'static str {
        match self {
            Self::Node => "npm",
            Self::Python(_) => "the package index",
        }
    }
}

impl PythonOptions {
    /// The indexes with the fields they are given in.
    pub fn indexes(&self) -> impl Iterator<Item = (&'static str, &PackageIndex)> {
        let first = self.index_url.iter().map(|index| ("pipIndexUrl", index));
        first.chain(
            self.extra_index_url
                .iter()
                .map(|index| ("pipExtraIndexUrl", index)),
        )
    }

    pub fn check(&self) -> Result<(), Failure> {
        if let Some(module) = &self.module {
            check_module(module)?;
        }
        self.dependencies
            .iter()
            .try_for_each(|requirement| check_requirement(requirement))?;
        for (field, index) in self.indexes() {
            split_index(field, &index.url)?;
        }
        Ok(())
    }
}

impl Package {
    /// Everything of it in the Vault.
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

/// The index's URL as it may be shown, and its user info.
pub fn split_index(field: &str, url: &str) -> Result<(String, Option<String>), Failure> {
    let wrong = |_| {
        Failure::invalid(format!(
            "{field} must be an absolute http:// or https:// URL, such as https://example.com/simple"
        ))
    };
    let blank = url.contains(|c: char| c.is_whitespace() || c.is_control());
    if blank {
        Err(wrong(Failure::invalid("")))
    } else {
        split_user_info(url).map_err(wrong)
    }
}
