//! What can be asked for about packages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RegisterServer;
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, ServerId};
use crate::core::model::package::Source;
use crate::core::names::{PackageName, ServerName, VersionTag};

/// Install a package and register the server that it is. Nothing is left of it where that fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstallPackage {
    pub package: PackageName,
    /// The newest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionTag>,
    pub source: Source,
    /// An empty command is found in the package.
    pub register: RegisterServer,
}

/// Give a package another version. The old one goes on running where that fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradePackage {
    pub id: CommandId,
    pub name: ServerName,
    /// The newest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionTag>,
}

/// Look which versions of servers' packages are the newest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckPackages {
    pub servers: Vec<ServerId>,
}

/// What was found of one server's package.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackageCheck {
    pub server: ServerId,
    pub latest: Result<String, Failure>,
}
