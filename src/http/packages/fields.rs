//! The fields of an installation: parsed, checked, credentials of package indexes sealed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::core::command::{InstallPackage, RegisterServer};
use crate::core::failure::Failure;
use crate::core::ids::ServerId;
use crate::core::model::caller::Caller;
use crate::core::model::credential::Credential;
use crate::core::model::package::{
    FOLDER, PackageIndex, PythonOptions, Source, python_name, split_index,
};
use crate::core::model::remote::{HIDDEN, ReconnectionOptions};
use crate::core::model::server::{Interaction, Replicas};
use crate::core::model::server_json::ServerJson;
use crate::core::names::{PackageName, SecretName, ServerName, UserName, VersionTag};
use crate::crypto::context::ServerValueKind;
use crate::http::servers::credentials::CredentialSealer;
use crate::http::servers::fields::RegisterBody;
use crate::http::state::{ApiState, change_origin};

/// A package to install, and its server.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "@modelcontextprotocol/server-memory", "serverName": "memory"}))]
pub(crate) struct InstallBody {
    /// The name of the package at npm, or at PyPI with the runtime `python`.
    #[schema(value_type = String, example = "@modelcontextprotocol/server-memory")]
    name: PackageName,
    /// A version or a tag; the newest version if absent.
    #[schema(value_type = Option<String>, example = "2026.8.31")]
    version: Option<VersionTag>,
    /// The user of the job; the caller if absent, and `default` for a caller without a user.
    #[schema(value_type = Option<String>)]
    pub username: Option<UserName>,
    /// The name of the new server.
    #[schema(value_type = String, example = "memory")]
    pub server_name: ServerName,
    /// `node` (also if absent) or `python`.
    #[schema(example = "node")]
    runtime: Option<String>,
    /// `stdio` (also if absent) or `streamable_http`.
    #[schema(example = "stdio")]
    transport_type: Option<String>,
    /// The program to start, if the package does not name one. A name without a slash is the
    /// package's own program, if it has one of that name. `${package}` stands for the package's
    /// folder, also in `args` and `env`.
    command: Option<String>,
    args: Option<Vec<String>>,
    /// Environment variables of the server. The answers show them, so put no secrets here.
    env: Option<BTreeMap<String, String>>,
    #[schema(value_type = Option<Vec<String>>)]
    secret_names: Option<Vec<SecretName>>,
    /// The values that the server needs, and where its requests carry them. Without this field, `serverJson` and
    /// `secretNames`, the program reads them from the `server.json` of the package, if it has one.
    credentials: Option<Vec<Credential>>,
    /// The `server.json` of the official MCP registry. Its secret variables and headers become the credentials.
    #[schema(value_type = Option<Object>)]
    server_json: Option<Box<RawValue>>,
    #[schema(minimum = 1, maximum = 86_400_000)]
    startup_timeout: Option<u64>,
    #[schema(minimum = 1, maximum = 86_400_000)]
    tool_timeout: Option<u64>,
    reset_timeout_on_progress: Option<bool>,
    hide_secret_arguments: Option<bool>,
    replicas: Option<Replicas>,
    /// `none` (also if absent) or `exclusive`. Only for stdio.
    interaction: Option<Interaction>,
    /// True if absent. The program does not start a disabled server to test it.
    pub enabled: Option<bool>,
    /// The MCP endpoint. Only for streamable_http, like the three fields below.
    #[schema(example = "https://mcp.example.com/mcp")]
    url: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    session_id: Option<String>,
    reconnection_options: Option<ReconnectionOptions>,
    /// The module for `python -m`. Only for python, like the fields below. Without this field and
    /// `command`, the program starts the console script with the name of the package, or its only
    /// console script.
    #[schema(example = "mcp_server_time")]
    python_module: Option<String>,
    /// The arguments of the module or of the console script.
    python_args: Option<Vec<String>>,
    /// Requirements that pip installs with the package, now and at upgrades.
    #[schema(example = json!(["mcp<2"]))]
    pip_dependencies: Option<Vec<String>>,
    /// Replaces PIP_INDEX_URL. The program seals user info and shows `***`.
    pip_index_url: Option<String>,
    /// Replaces PIP_EXTRA_INDEX_URL. The program seals user info and shows `***`.
    pip_extra_index_url: Option<String>,
}

impl InstallBody {
    /// Returns the command, with the credentials sealed for the new server.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn into_command(
        mut self,
        state: &ApiState,
        caller: &Caller,
    ) -> Result<InstallPackage, Failure> {
        let server = ServerId(Uuid::now_v7());
        let is_remote = self.transport_type.as_deref() == Some("streamable_http");
        let mut seal = CredentialSealer::new(state.sealer(), server);
        let (package, source) = self.take_source(is_remote, &mut seal)?;
        self.check_server_name(state, &source)?;
        let server_json = self.take_server_json()?;
        let read_server_json =
            server_json.is_none() && self.credentials.is_none() && self.secret_names.is_none();
        let name = self.server_name.clone();
        let enabled = self.enabled.unwrap_or(true);
        let version = self.version.take();
        let mut sealed = self
            .into_server(is_remote)
            .into_config(state.sealer(), server)?;
        if let Some(server_json) = server_json {
            sealed.config.credentials = server_json.credentials(&package, &sealed.config);
            sealed.config.check()?;
        }
        let mut values = sealed.values;
        values.extend(seal.into_values());
        let register = RegisterServer {
            origin: change_origin(caller, None),
            server,
            name,
            config: sealed.config,
            enabled,
            session: sealed.session,
            sealed: values,
        };
        Ok(InstallPackage {
            package,
            version,
            source,
            register,
            read_server_json,
        })
    }

    /// Returns the `server.json` of the request.
    ///
    /// # Errors
    /// Fails if it is none, or if the request names the credentials too.
    fn take_server_json(&mut self) -> Result<Option<ServerJson>, Failure> {
        let Some(text) = self.server_json.take() else {
            return Ok(None);
        };
        if self.credentials.is_some() || self.secret_names.is_some() {
            return Err(Failure::invalid(
                "serverJson excludes credentials and secretNames; send one of them",
            ));
        }
        ServerJson::parse(text.get()).map(Some)
    }

    fn take_source(
        &mut self,
        is_remote: bool,
        seal: &mut CredentialSealer<'_>,
    ) -> Result<(PackageName, Source), Failure> {
        match self.runtime.as_deref() {
            None | Some("node" | "npm") => {
                self.refuse_python_fields()?;
                Ok((self.name.clone(), Source::Node))
            }
            Some("python") if is_remote => Err(Failure::invalid(
                "transportType must be stdio for the runtime python",
            )),
            Some("python") => {
                let name = python_name(&self.name)?;
                Ok((name, Source::Python(self.take_python(seal)?)))
            }
            Some(_) => Err(Failure::invalid("runtime must be node or python")),
        }
    }

    fn check_server_name(&self, state: &ApiState, source: &Source) -> Result<(), Failure> {
        let dirs = state.package_dirs();
        if dirs
            .python
            .starts_with(dirs.link(source, &self.server_name))
        {
            return Err(Failure::invalid(format!(
                "serverName must not be {}, because PYTHON_VENV_DIR has that folder",
                self.server_name
            )));
        }
        Ok(())
    }

    /// Returns the fields of the server without the fields of the other transport.
    fn into_server(self, is_remote: bool) -> RegisterBody {
        let remote = is_remote.then_some(());
        let stdio = (!is_remote).then_some(());
        RegisterBody {
            name: self.server_name,
            transport_type: self.transport_type,
            command: stdio.map(|()| self.command.unwrap_or_else(|| FOLDER.into())),
            args: stdio.and(self.args),
            env: stdio.and(self.env),
            secret_names: self.secret_names,
            credentials: self.credentials,
            startup_timeout: self.startup_timeout,
            tool_timeout: self.tool_timeout,
            reset_timeout_on_progress: self.reset_timeout_on_progress,
            hide_secret_arguments: self.hide_secret_arguments,
            replicas: stdio.and(self.replicas),
            interaction: stdio.and(self.interaction),
            enabled: self.enabled,
            url: remote.and(self.url),
            headers: remote.and(self.headers),
            session_id: remote.and(self.session_id),
            reconnection_options: remote.and(self.reconnection_options),
        }
    }

    fn take_python(&mut self, seal: &mut CredentialSealer<'_>) -> Result<PythonOptions, Failure> {
        if self.command.as_deref() == Some("") {
            return Err(Failure::invalid("command must not be empty"));
        }
        let index_url = seal_index("pipIndexUrl", self.pip_index_url.take(), seal)?;
        let extra_index_url =
            seal_index("pipExtraIndexUrl", self.pip_extra_index_url.take(), seal)?;
        let python = PythonOptions {
            index_url,
            extra_index_url,
            module: self.python_module.take(),
            args: self.python_args.take().unwrap_or_default(),
            dependencies: self.pip_dependencies.take().unwrap_or_default(),
        };
        python.check()?;
        Ok(python)
    }

    fn refuse_python_fields(&self) -> Result<(), Failure> {
        let fields = [
            ("pythonModule", self.python_module.is_some()),
            ("pythonArgs", self.python_args.is_some()),
            ("pipDependencies", self.pip_dependencies.is_some()),
            ("pipIndexUrl", self.pip_index_url.is_some()),
            ("pipExtraIndexUrl", self.pip_extra_index_url.is_some()),
        ];
        let given: Vec<_> = fields
            .into_iter()
            .filter_map(|(name, is_given)| is_given.then_some(name))
            .collect();
        if given.is_empty() {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "A package with the runtime node cannot have {}; remove them",
            given.join(", ")
        )))
    }
}

/// Returns a package index with its user info sealed. An empty URL counts as absent.
fn seal_index(
    field: &'static str,
    url: Option<String>,
    seal: &mut CredentialSealer<'_>,
) -> Result<Option<PackageIndex>, Failure> {
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        return Ok(None);
    };
    let (url, user_info) = split_index(field, &url)?;
    let user_info = match user_info {
        Some(hidden) if hidden == HIDDEN => {
            return Err(Failure::invalid(format!(
                "{field} has *** for its user info, and none is stored"
            )));
        }
        Some(user_info) => Some(seal.seal(ServerValueKind::Index, field, &user_info)?),
        None => None,
    };
    Ok(Some(PackageIndex { url, user_info }))
}

/// The options of an upgrade.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpgradeBody {
    /// The user of the job; the caller if absent, and `default` for a caller without a user.
    #[schema(value_type = Option<String>)]
    pub username: Option<UserName>,
    /// A version or a tag; the newest version if absent.
    #[schema(value_type = Option<String>, example = "2026.8.31")]
    pub version: Option<VersionTag>,
}
