//! The `server.json` of the official MCP registry: the credentials that a package or a remote server declares there.
//!
//! The format is that of the schema `2025-12-11` and of the earlier schemas, whose names have underscores.

use serde::Deserialize;

use super::credential::{Credential, CredentialLocation, CredentialOwner, PLACEHOLDER};
use super::server::{ServerConfig, Transport};
use crate::core::failure::Failure;
use crate::core::names::{PackageName, SecretName};

/// The longest description that is kept, in characters.
const MAX_DESCRIPTION: usize = 500;

/// The parts of a `server.json` that name credentials.
#[derive(Debug, Default, Deserialize)]
pub struct ServerJson {
    #[serde(default)]
    packages: Vec<PackageEntry>,
    #[serde(default)]
    remotes: Vec<RemoteEntry>,
}

#[derive(Debug, Deserialize)]
struct PackageEntry {
    /// The name of the package in its registry.
    #[serde(alias = "name")]
    identifier: Option<String>,
    #[serde(
        default,
        rename = "environmentVariables",
        alias = "environment_variables"
    )]
    environment_variables: Vec<Input>,
    /// A package can run as an HTTP server, whose clients send these headers.
    transport: Option<RemoteEntry>,
}

#[derive(Debug, Deserialize)]
struct RemoteEntry {
    url: Option<String>,
    #[serde(default)]
    headers: Vec<Input>,
}

/// A variable or a header.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    name: String,
    description: Option<String>,
    #[serde(default, alias = "is_required")]
    is_required: bool,
    #[serde(default, alias = "is_secret")]
    is_secret: bool,
    /// A fixed value, or a text with `{name}` for each of `variables`.
    value: Option<String>,
    #[serde(default)]
    variables: std::collections::BTreeMap<String, Variable>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    description: Option<String>,
    #[serde(default, alias = "is_required")]
    is_required: bool,
    #[serde(default, alias = "is_secret")]
    is_secret: bool,
}

impl ServerJson {
    /// Parses a `server.json`.
    ///
    /// # Errors
    /// The failure says where the text differs from the format, and never repeats the text.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if !text.trim_start().starts_with('{') {
            return Err(Failure::invalid("serverJson must be an object"));
        }
        serde_json::from_str(text).map_err(|error| {
            Failure::invalid(format!(
                "serverJson is no server.json of the MCP registry: line {}, column {}",
                error.line(),
                error.column()
            ))
        })
    }

    /// Returns the secret variables of the package, or the secret headers of the URL. A variable or a header that the
    /// configuration sets already is left out.
    pub fn credentials(&self, package: &PackageName, config: &ServerConfig) -> Vec<Credential> {
        let (inputs, location) = match &config.transport {
            Transport::Stdio { .. } => (self.variables_of(package), CredentialLocation::Env),
            Transport::StreamableHttp(remote) => (
                self.headers_of(package, &remote.url),
                CredentialLocation::Header,
            ),
        };
        let is_set = |name: &str| match &config.transport {
            Transport::Stdio { env, .. } => env.contains_key(name),
            Transport::StreamableHttp(remote) => {
                let mut names = remote.headers.keys();
                names.any(|set| set.eq_ignore_ascii_case(name))
            }
        };
        inputs
            .iter()
            .filter(|input| !is_set(&input.name))
            .filter_map(|input| input.to_credential(location))
            .collect()
    }

    fn variables_of(&self, package: &PackageName) -> &[Input] {
        self.package(package)
            .map_or(&[], |entry| &entry.environment_variables)
    }

    /// Returns the headers of the remote with this URL, or of the package that listens there.
    fn headers_of(&self, package: &PackageName, url: &str) -> &[Input] {
        let mut remotes = self.remotes.iter();
        let same_url = remotes.find(|remote| remote.url.as_deref() == Some(url));
        let only_one = match &self.remotes[..] {
            [remote] => Some(remote),
            _ => None,
        };
        let listening = self
            .package(package)
            .and_then(|entry| entry.transport.as_ref());
        same_url
            .or(listening)
            .or(only_one)
            .map_or(&[], |remote| &remote.headers)
    }

    fn package(&self, package: &PackageName) -> Option<&PackageEntry> {
        let mut packages = self.packages.iter();
        packages.find(|entry| entry.identifier.as_deref() == Some(package.as_str()))
    }
}

impl Input {
    /// Returns the credential for a secret input. `None`: the input is no secret, or its name is none of a secret.
    fn to_credential(&self, location: CredentialLocation) -> Option<Credential> {
        let mut secret_variables = self
            .variables
            .iter()
            .filter(|(_, variable)| variable.is_secret);
        let variable = match (secret_variables.next(), secret_variables.next()) {
            (variable, None) => variable,
            // Several secrets in one value have no single owner.
            (_, Some(_)) => return None,
        };
        let is_fixed = self.value.is_some() && variable.is_none();
        if is_fixed || !(self.is_secret || variable.is_some()) {
            return None;
        }
        let format = variable
            .zip(self.value.as_deref())
            .map(|((name, _), value)| value.replacen(&format!("{{{name}}}"), PLACEHOLDER, 1))
            .filter(|format| format != PLACEHOLDER);
        let description = variable
            .and_then(|(_, variable)| variable.description.as_deref())
            .or(self.description.as_deref())
            .map(shown_description);
        let name: SecretName = self.name.parse().ok()?;
        Some(Credential {
            name,
            location,
            target: None,
            format,
            required: self.is_required
                || variable.is_some_and(|(_, variable)| variable.is_required),
            owner: CredentialOwner::User,
            description,
        })
    }
}

/// Returns a description without control characters, shortened.
fn shown_description(text: &str) -> String {
    let shown = text.chars().filter(|letter| !letter.is_control());
    shown.take(MAX_DESCRIPTION).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::model::remote::Remote;

    fn server_json(value: Value) -> ServerJson {
        ServerJson::parse(&value.to_string()).expect("a server.json")
    }

    fn stdio(env: Value) -> ServerConfig {
        ServerConfig::new(Transport::Stdio {
            command: "npx".into(),
            args: vec![],
            env: serde_json::from_value(env).expect("variables"),
        })
    }

    fn package() -> PackageName {
        "@acme/crm".parse().expect("a name")
    }

    #[test]
    fn secret_variables_of_the_package_become_credentials() {
        let manifest = server_json(json!({
            "name": "io.github.acme/crm", "version": "1.0.0",
            "packages": [
                { "registryType": "npm", "identifier": "@acme/other", "environmentVariables": [{ "name": "NO", "isSecret": true }] },
                { "registryType": "npm", "identifier": "@acme/crm", "environmentVariables": [
                    { "name": "API_KEY", "description": "The\nkey", "isRequired": true, "isSecret": true },
                    { "name": "REGION", "isRequired": true },
                    { "name": "TOKEN", "isSecret": true },
                    { "name": "SET", "isSecret": true },
                ] },
            ],
        }));
        let credentials = manifest.credentials(&package(), &stdio(json!({ "SET": "1" })));
        assert_eq!(
            serde_json::to_value(credentials).expect("JSON"),
            json!([
                { "name": "API_KEY", "in": "env", "required": true, "owner": "user", "description": "Thekey" },
                { "name": "TOKEN", "in": "env", "required": false, "owner": "user" },
            ])
        );
    }

    #[test]
    fn the_names_of_earlier_schemas_are_read_too() {
        let manifest = server_json(json!({
            "packages": [{ "registry_name": "npm", "name": "@acme/crm", "environment_variables": [
                { "name": "API_KEY", "is_required": true, "is_secret": true },
            ] }],
        }));
        let credentials = manifest.credentials(&package(), &stdio(json!({})));
        assert_eq!(credentials.len(), 1);
        assert!(credentials[0].required);
    }

    #[test]
    fn a_secret_in_a_header_keeps_the_text_around_it() {
        let manifest = server_json(json!({
            "remotes": [{ "type": "streamable-http", "url": "https://crm/mcp", "headers": [
                { "name": "Authorization", "value": "Bearer {token}",
                  "variables": { "token": { "description": "A key", "isRequired": true, "isSecret": true } } },
                { "name": "X-Key", "isSecret": true },
                { "name": "X-Fixed", "isSecret": true, "value": "public" },
                { "name": "X-Region", "value": "{region}", "variables": { "region": {} } },
            ] }],
        }));
        let config = ServerConfig::new(Transport::StreamableHttp(Remote::new("https://crm/mcp")));
        assert_eq!(
            serde_json::to_value(manifest.credentials(&package(), &config)).expect("JSON"),
            json!([
                { "name": "Authorization", "in": "header", "format": "Bearer {value}", "required": true, "owner": "user", "description": "A key" },
                { "name": "X-Key", "in": "header", "required": false, "owner": "user" },
            ])
        );
    }

    #[test]
    fn another_package_has_no_credentials() {
        let manifest = server_json(json!({
            "packages": [{ "identifier": "@acme/other", "environmentVariables": [{ "name": "NO", "isSecret": true }] }],
        }));
        assert!(
            manifest
                .credentials(&package(), &stdio(json!({})))
                .is_empty()
        );
    }

    #[test]
    fn a_text_that_is_no_server_json_is_refused_without_its_content() {
        for text in ["", "[]", r#"{"packages": "s3cret"}"#] {
            let failure = ServerJson::parse(text).expect_err(text);
            assert!(failure.message.starts_with("serverJson"), "{failure}");
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
    }
}
