//!

use serde::Serialize;
use utoipa::ToSchema;

use super::server::time;
use crate::core::catalog::server::Server;
use crate::core::model::package::{PackageDirs, PackageIndex, Source};
use crate::core::names::{PackageName, ServerName};

/// A package: what is installed, for which server, and whether there is something newer.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageView {
    #[schema(value_type = String)]
    name: PackageName,
    /// The version that is really installed.
    version: String,
    /// The newest version, as last looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_version: Option<String>,
    update_available: bool,
    /// The link to the files of the current version, on a worker with the same PACKAGES_DIR as here.
    #[serde(skip_serializing_if = "Option::is_none")]
    install_path: Option<String>,
    #[schema(value_type = String, example = "installed")]
    status: &'static str,
    /// When, in RFC 3339.
    installed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_upgraded: Option<String>,
    /// The name of its server.
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
    /// `***` stands for user info.
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_index_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pip_extra_index_url: Option<String>,
    /// The same as installPath, of a Python package.
    #[serde(skip_serializing_if = "Option::is_none")]
    venv_path: Option<String>,
}

impl PackageView {
    /// `None`: the server has no package.
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
            let shown = |index: PackageIndex| index.url;
            (view.python_module, view.python_args) = (python.module, Some(python.args));
            view.pip_dependencies = Some(python.dependencies);
            (view.pip_index_url, view.pip_extra_index_url) = (
                python.index_url.map(shown),
                python.extra_index_url.map(shown),
            );
            view.venv_path.clone_from(&view.install_path);
        }
        Some(view)
    }
}
