//! Commands for packages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ChangeOrigin, RegisterServer};
use crate::core::failure::Failure;
use crate::core::ids::ServerId;
use crate::core::model::package::Source;
use crate::core::names::{PackageName, ServerName, VersionTag};

/// Installs a package and registers its server. If a step fails, no files and no server remain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstallPackage {
    pub package: PackageName,
    /// The version. Without it, the newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionTag>,
    pub source: Source,
    /// The registration of the server. If its command is empty, the worker finds the command in the package.
    pub register: RegisterServer,
    /// The worker reads the credentials of the server from the `server.json` of the package, if the package has one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_server_json: bool,
}

/// Changes the version of a package. If the upgrade fails, the old version continues to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradePackage {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub name: ServerName,
    /// The version. Without it, the newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionTag>,
}

/// Looks up the newest versions of the packages of servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckPackages {
    pub servers: Vec<ServerId>,
}

/// The newest version of the package of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackageCheck {
    pub server: ServerId,
    pub latest: Result<String, Failure>,
}
