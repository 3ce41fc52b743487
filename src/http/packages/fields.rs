//! The fields of an installation as users give them: parsed, checked, credentials of indexes sealed at the door.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::core::command::{InstallPackage, RegisterServer};
use crate::core::failure::Failure;
use crate::core::ids::ServerId;
use crate::core::model::package::{
    FOLDER, PackageIndex, PythonOptions, Source, python_name, split_index,
};
use crate::core::model::remote::{HIDDEN, ReconnectionOptions};
use crate::core::model::server::Replicas;
use crate::core::names::{PackageName, SecretName, ServerName, UserName, VersionTag};
use crate::crypto::context::ServerValueKind;
use crate::http::servers::fields::{CredentialSealer, RegisterBody};
use crate::http::state::{ApiState, new_command_id};

/// A package to be installed, and the server that it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "@modelcontextprotocol/server-memory", "serverName": "memory"}))]
pub struct InstallBody {
    /// The package's name at npm, or at PyPI for `runtime` python.
    #[schema(value_type = String, example = "@modelcontextprotocol/server-memory")]
    name: PackageName,
    /// A version or a tag; the newest where absent.
    #[schema(value_type = Option<String>, example = "2026.8.31")]
    version: Option<VersionTag>,
    /// Whose job it is; `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    pub username: UserName,
    /// What the server will be called.
    #[schema(value_type = String, example = "memory")]
    pub server_name: ServerName,
    /// `node`, also where absent, or `python`.
    #[schema(example = "node")]
    runtime: Option<String>,
    /// `stdio`, also where absent, or `streamable_http`.
    #[schema(example = "stdio")]
    transport_type: Option<String>,
    /// The program to start, where it is not to be found in the package. A bare name is the package's own program
    /// where it has one of that name; `${package}` stands for its folder, here and in `args` and `env`.
    command: Option<String>,
    args: Option<Vec<String>>,
    /// Variables of the server's environment. Shown as they are: put no secrets here.
    env: Option<BTreeMap<String, String>>,
    #[schema(value_type = Option<Vec<String>>)]
    secret_names: Option<Vec<SecretName>>,
    #[schema(minimum = 1, maximum = 86_400_000)]
    startup_timeout: Option<u64>,
    #[schema(minimum = 1, maximum = 86_400_000)]
    tool_timeout: Option<u64>,
    reset_timeout_on_progress: Option<bool>,
    replicas: Option<Replicas>,
    /// True where absent. A server that is disabled is not started to see whether it works.
    pub enabled: Option<bool>,
    /// The MCP endpoint. For streamable_http, as are the three that follow.
    #[schema(example = "https://mcp.example.com/mcp")]
    url: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    session_id: Option<String>,
    reconnection_options: Option<ReconnectionOptions>,
    /// The module that `python -m` runs. For python, as are the fields that follow. Without `pythonModule` and
    /// `command`, the console script with the name of the package is started, otherwise its only console script.
    #[schema(example = "mcp_server_time")]
    python_module: Option<String>,
    /// The arguments of the module or of the console script.
    python_args: Option<Vec<String>>,
    /// Requirements that are installed with it, and kept for upgrades.
    #[schema(example = json!(["mcp<2"]))]
    pip_dependencies: Option<Vec<String>>,
    /// Instead of PIP_INDEX_URL. User info is sealed and shown as `***`.
    pip_index_url: Option<String>,
    /// Instead of PIP_EXTRA_INDEX_URL. User info is sealed and shown as `***`.
    pip_extra_index_url: Option<String>,
}

impl InstallBody {
    /// The command that these fields mean.
    pub fn command(mut self, facade: &ApiState) -> Result<InstallPackage, Failure> {
        let server = ServerId(Uuid::now_v7());
        let http = self.transport_type.as_deref() == Some("streamable_http");
        let mut seal = CredentialSealer::new(&facade.sealer, server);
        let (package, source) = match self.runtime.as_deref() {
            None | Some("node" | "npm") => {
                self.refuse_python()?;
                (self.name.clone(), Source::Node)
            }
            Some("python") if http => {
                return Err(Failure::invalid(
                    "transportType must be stdio for the runtime python",
                ));
            }
            Some("python") => (
                python_name(&self.name)?,
                Source::Python(self.python(&mut seal)?),
            ),
            Some(_) => return Err(Failure::invalid("runtime must be node or python")),
        };
        let folders = &facade.folders;
        if folders
            .python
            .starts_with(folders.link(&source, &self.server_name))
        {
            return Err(Failure::invalid(format!(
                "serverName must not be {}: PYTHON_VENV_DIR lies there",
                self.server_name
            )));
        }
        let (name, enabled, version) = (
            self.server_name.clone(),
            self.enabled.unwrap_or(true),
            self.version.take(),
        );
        let (config, session, mut sealed) = self.server(http).config(&facade.sealer, server)?;
        sealed.extend(seal.sealed);
        let register = RegisterServer {
            id: new_command_id(),
            key: None,
            server,
            name,
            config,
            enabled,
            session,
            sealed,
        };
        Ok(InstallPackage {
            package,
            version,
            source,
            register,
        })
    }

    /// The server's own part. What is of the other transport is ignored.
    fn server(self, http: bool) -> RegisterBody {
        let (for_http, for_stdio) = (http.then_some(()), (!http).then_some(()));
        RegisterBody {
            name: self.server_name,
            transport_type: self.transport_type,
            command: for_stdio.map(|()| self.command.unwrap_or_else(|| FOLDER.into())),
            args: for_stdio.and(self.args),
            env: for_stdio.and(self.env),
            secret_names: self.secret_names,
            startup_timeout: self.startup_timeout,
            tool_timeout: self.tool_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress,
            replicas: for_stdio.and(self.replicas),
            enabled: self.enabled,
            url: for_http.and(self.url),
            headers: for_http.and(self.headers),
            session_id: for_http.and(self.session_id),
            reconnection_options: for_http.and(self.reconnection_options),
        }
    }

    fn python(&mut self, seal: &mut CredentialSealer<'_>) -> Result<PythonOptions, Failure> {
        if self.command.as_deref() == Some("") {
            return Err(Failure::invalid("command must not be empty"));
        }
        let mut index = |field: &'static str, url: Option<String>| {
            let Some(url) = url.filter(|url| !url.is_empty()) else {
                return Ok(None);
            };
            let (shown, user_info) = split_index(field, &url)?;
            let user_info = match user_info {
                Some(hidden) if hidden == HIDDEN => {
                    return Err(Failure::invalid(format!(
                        "{field} has *** for its user info, which is not known"
                    )));
                }
                Some(user_info) => Some(seal.seal(ServerValueKind::Index, field, &user_info)?),
                None => None,
            };
            Ok(Some(PackageIndex {
                url: shown,
                user_info,
            }))
        };
        let python = PythonOptions {
            index_url: index("pipIndexUrl", self.pip_index_url.take())?,
            extra_index_url: index("pipExtraIndexUrl", self.pip_extra_index_url.take())?,
            module: self.python_module.take(),
            args: self.python_args.take().unwrap_or_default(),
            dependencies: self.pip_dependencies.take().unwrap_or_default(),
        };
        python.check()?;
        Ok(python)
    }

    fn refuse_python(&self) -> Result<(), Failure> {
        let given = [
            ("pythonModule", self.python_module.is_some()),
            ("pythonArgs", self.python_args.is_some()),
            ("pipDependencies", self.pip_dependencies.is_some()),
            ("pipIndexUrl", self.pip_index_url.is_some()),
            ("pipExtraIndexUrl", self.pip_extra_index_url.is_some()),
        ];
        let given: Vec<_> = given
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect();
        if given.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "A package of the runtime node has no {}; leave that out",
            given.join(", ")
        )))
    }
}

/// What an upgrade may say.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeBody {
    /// Whose job it is; `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    pub username: UserName,
    /// A version or a tag; the newest where absent.
    #[schema(value_type = Option<String>, example = "2026.8.31")]
    pub version: Option<VersionTag>,
}
