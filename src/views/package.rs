//! The JSON of a package.

use serde::Serialize;
use utoipa::ToSchema;

use super::server::time;
use crate::core::catalog::server::Server;
use crate::core::model::package::{PackageDirs, Source};
use crate::core::names::{PackageName, ServerName};

/// A package: the installed version, its server, and the newest version.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageView {
    #[schema(value_type = String)]
    name: PackageName,
    /// The installed version.
    version: String,
    /// The newest version that the last check has found.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_version: Option<String>,
    update_available: bool,
    /// The path of the link to the files of the current version, on a worker with the same PACKAGES_DIR as this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    install_path: Option<String>,
    #[schema(value_type = String, example = "installed")]
    status: &'static str,
    /// The time of the installation (RFC 3339).
    installed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_upgraded: Option<String>,
    /// The name of the server.
    #[schema(value_type = String)]
    mcp_server_id: ServerName,
    enabled: bool,
    #[schema(value_type = String, example = "node")]
    runtime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    python_module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    python_args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_dependencies: Option<Vec<String>>,
    /// `***` replaces the user info.
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_index_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_extra_index_url: Option<String>,
    /// The same path as `installPath`, for a Python package.
    #[serde(skip_serializing_if = "Option::is_none")]
    venv_path: Option<String>,
}

impl PackageView {
    /// Returns `None` if the server has no package.
    pub fn new(server: &Server, folders: &PackageDirs) -> Option<Self> {
        let installed = server.package.as_ref()?;
        let package = &installed.package;
        let link = folders
            .link(&package.source, &server.name)
            .to_string_lossy()
            .into_owned();
        let install_path = package.recipe.as_ref().map(|_| link);
        let mut view = Self {
            name: package.name.clone(),
            version: package.version.clone(),
            latest_version: installed.latest.clone(),
            update_available: installed.update_available(),
            install_path,
            status: "installed",
            installed: time(installed.installed),
            last_upgraded: installed.upgraded.map(time),
            mcp_server_id: server.name.clone(),
            enabled: server.enabled,
            runtime: package.source.runtime(),
            python_module: None,
            python_args: None,
            pip_dependencies: None,
            pip_index_url: None,
            pip_extra_index_url: None,
            venv_path: None,
        };
        if let Source::Python(python) = package.source.clone() {
            view.python_module = python.module;
            view.python_args = Some(python.args);
            view.pip_dependencies = Some(python.dependencies);
            view.pip_index_url = python.index_url.map(|index| index.url);
            view.pip_extra_index_url = python.extra_index_url.map(|index| index.url);
            view.venv_path.clone_from(&view.install_path);
        }
        Some(view)
    }
}
