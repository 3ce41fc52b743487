//! The plan of an import: the requests to send, and the reasons why other data is skipped.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::grants::{GrantImport, grant};
use super::packages::{PackageImport, package};
use crate::app::predecessor::PredecessorData;
use crate::core::model::package::python_name;
use crate::core::model::secret::plain_name;
use crate::core::names::{SecretName, ServerName, UserName};
use crate::crypto::predecessor::PredecessorKey;
use crate::crypto::seal::Plaintext;

/// The fields of all servers that are imported.
const SERVER_FIELDS: [&str; 3] = ["name", "startupTimeout", "enabled"];
const STDIO_FIELDS: [&str; 3] = ["command", "args", "env"];
const HTTP_FIELDS: [&str; 4] = ["url", "headers", "sessionId", "reconnectionOptions"];

/// The servers and packages of the API.
pub(super) struct ExistingState {
    pub servers: Vec<Value>,
    pub packages: Vec<Value>,
}

pub(super) struct ImportPlan {
    /// The servers to register, as bodies of requests.
    pub servers: Vec<Value>,
    pub existing_servers: usize,
    /// The packages to install, each with its server.
    pub packages: Vec<PackageImport>,
    pub existing_packages: usize,
    /// The servers that exist or will exist.
    pub names: BTreeSet<String>,
    pub secrets: Vec<SecretImport>,
    pub existing_secrets: usize,
    pub grants: Vec<GrantImport>,
    pub existing_grants: usize,
    /// One sentence for each item that is not imported. No sentence contains a value.
    pub skipped: Vec<String>,
    /// The key opens none of the secrets.
    pub is_wrong_key: bool,
}

pub(super) struct SecretImport {
    pub user: UserName,
    pub server: ServerName,
    pub name: SecretName,
    pub value: Plaintext,
}

impl SecretImport {
    /// Names the secret in messages.
    pub(super) fn description(&self) -> String {
        format!(
            "the secret {} of {} for {}",
            self.name, self.user, self.server
        )
    }
}

impl ImportPlan {
    /// Compares the data of the predecessor with the data of the API.
    pub(super) fn new(
        found: &PredecessorData,
        existing: &ExistingState,
        key: &PredecessorKey,
        now_ms: u64,
    ) -> Self {
        let names = existing
            .servers
            .iter()
            .filter_map(|server| server["name"].as_str())
            .map(str::to_owned);
        let mut plan = Self {
            servers: vec![],
            existing_servers: 0,
            packages: vec![],
            existing_packages: 0,
            names: names.collect(),
            secrets: vec![],
            existing_secrets: 0,
            grants: vec![],
            existing_grants: 0,
            skipped: vec![],
            is_wrong_key: false,
        };
        plan.add_servers_and_packages(found, existing);
        let known = plan.names.clone();
        let opens = |secret: &Value| key.open(&text(secret, "value")).is_ok();
        plan.is_wrong_key = !found.secrets.is_empty() && !found.secrets.iter().any(opens);
        for document in &found.secrets {
            match secret(document, &known, key) {
                Ok(secret) => plan.add_secret(secret),
                Err(why) => plan.skipped.push(why),
            }
        }
        for document in &found.tokens {
            match grant(document, key, now_ms) {
                Ok(grant) => plan.grants.push(grant),
                Err(why) => plan.skipped.push(why),
            }
        }
        plan
    }

    /// Adds the packages and the servers without a package. An installation creates the server of its package, because
    /// the server of the predecessor starts from folders that do not exist here.
    fn add_servers_and_packages(&mut self, found: &PredecessorData, existing: &ExistingState) {
        let mut servers = HashMap::new();
        for document in &found.servers {
            servers
                .entry(document["name"].as_str().unwrap_or_default())
                .or_insert(document);
        }
        for document in &found.packages {
            match package(document, &servers) {
                Ok(package) => self.add_package(package, existing),
                Err(why) => self.skipped.push(why),
            }
        }
        let package_servers: HashSet<_> = found
            .packages
            .iter()
            .filter_map(|package| package["mcpServerId"].as_str())
            .collect();
        let existing_servers = existing
            .servers
            .iter()
            .filter_map(|server| Some((server["name"].as_str()?, server)))
            .collect();
        for document in &found.servers {
            let name = document["name"].as_str().unwrap_or_default();
            if !package_servers.contains(name) {
                self.add_server(document, &existing_servers);
            } else if !std::ptr::eq(servers[name], document) {
                self.skipped.push(duplicate_server(name));
            }
        }
    }

    fn add_package(&mut self, package: PackageImport, existing: &ExistingState) {
        let normalized = |name: &str| python_name(&name.parse().ok()?).ok();
        let is_same = |shown: &Value| {
            shown["name"] == *package.name
                || (normalized(&package.name).is_some_and(|name| shown["name"] == *name.as_str()))
        };
        let shown = existing
            .packages
            .iter()
            .find(|shown| shown["mcpServerId"] == *package.server);
        let server = &package.server;
        if shown.is_some_and(is_same) {
            self.existing_packages += 1;
        } else if existing
            .servers
            .iter()
            .any(|shown| shown["name"] == **server)
        {
            self.skipped.push(format!(
                "{}: a server of this name exists without this package, and stays unchanged",
                package.description()
            ));
        } else if !self.names.insert(server.clone()) {
            self.skipped.push(format!(
                "{}: the server has two packages, and the import uses the first",
                package.description()
            ));
        } else {
            self.packages.push(package);
        }
    }

    fn add_server(&mut self, document: &Value, existing: &HashMap<&str, &Value>) {
        let body = match server_body(document) {
            Ok(body) => Value::from(body),
            Err(why) => {
                return self
                    .skipped
                    .push(format!("the server {}: {why}", text(document, "name")));
            }
        };
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        match existing.get(name.as_str()) {
            Some(shown) => match difference(&body, shown) {
                Some(field) => self.skipped.push(format!(
                    "the server {name}: a server of this name exists with another `{field}`, and stays unchanged"
                )),
                None => self.existing_servers += 1,
            },
            None if !self.names.insert(name.clone()) => self.skipped.push(duplicate_server(&name)),
            None => self.servers.push(body),
        }
    }

    fn add_secret(&mut self, secret: SecretImport) {
        let is_same = |other: &&SecretImport| {
            (&other.user, &other.server, &other.name)
                == (&secret.user, &secret.server, &secret.name)
        };
        match self.secrets.iter().find(is_same) {
            None => self.secrets.push(secret),
            Some(first) if first.value.expose() == secret.value.expose() => {}
            Some(_) => self.skipped.push(format!(
                "{}: it exists twice, and the import uses the first",
                secret.description()
            )),
        }
    }

    /// Skips the secrets and tokens of servers that do not exist.
    pub(super) fn skip_without_server(&mut self) {
        let exists = |server: &ServerName| self.names.contains(server.as_str());
        let (secrets, no_secrets): (Vec<_>, Vec<_>) = self
            .secrets
            .drain(..)
            .partition(|secret| exists(&secret.server));
        let (grants, no_grants): (Vec<_>, Vec<_>) = self
            .grants
            .drain(..)
            .partition(|grant| exists(&grant.server));
        self.secrets = secrets;
        self.grants = grants;
        let descriptions = no_secrets
            .iter()
            .map(SecretImport::description)
            .chain(no_grants.iter().map(|grant| grant.description.clone()));
        self.skipped.extend(
            descriptions.map(|description| format!("{description}: the server does not exist")),
        );
    }

    /// Skips a server that the API has refused.
    pub(super) fn refuse_server(&mut self, name: &str, why: &str) {
        self.names.remove(name);
        self.servers.retain(|server| server["name"] != name);
        self.skipped.push(format!("the server {name}: {why}"));
    }

    /// Skips a package that the API has refused, and its server.
    pub(super) fn refuse_package(&mut self, package: &PackageImport, why: &str) {
        self.names.remove(&package.server);
        self.skipped
            .push(format!("{}: {why}", package.description()));
    }
}

fn duplicate_server(name: &str) -> String {
    format!("the server {name}: the name exists twice, and the import uses the first")
}

/// Returns the body of the request that registers a server.
pub(super) fn server_body(document: &Value) -> Result<Map<String, Value>, String> {
    let name: ServerName = text(document, "name")
        .parse()
        .map_err(|why| format!("the name {why}"))?;
    let transport = document["transportType"].as_str().unwrap_or("stdio");
    let own: &[&str] = match transport {
        "stdio" => &STDIO_FIELDS,
        "streamable_http" => &HTTP_FIELDS,
        other => return Err(format!("the transportType {other} is unknown")),
    };
    let mut body = Map::new();
    body.insert("transportType".into(), transport.into());
    for field in SERVER_FIELDS.iter().chain(own) {
        match &document[*field] {
            Value::Null => {}
            value => {
                body.insert((*field).into(), value.clone());
            }
        }
    }
    let names = document["secretNames"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let names = names
        .iter()
        .chain([&document["secretName"]])
        .filter_map(Value::as_str);
    let mut secret_names: Vec<String> = vec![];
    for secret in names {
        let secret = plain_name(
            &name,
            secret
                .parse()
                .map_err(|why| format!("a name in secretNames {why}"))?,
        );
        if !secret_names.iter().any(|known| known == secret.as_str()) {
            secret_names.push(secret.as_str().to_owned());
        }
    }
    if !secret_names.is_empty() {
        body.insert("secretNames".into(), json!(secret_names));
    }
    Ok(body)
}

/// Returns the first field in which the existing server differs. `enabled` and the session may have changed since.
fn difference(body: &Value, shown: &Value) -> Option<String> {
    let is_hidden = |shown: &Value| shown.as_str().is_some_and(|shown| shown.contains("***"));
    let differs = |field: &str, ours: &Value| match (field, &shown[field]) {
        ("enabled" | "sessionId", _) => false,
        // A sealed value cannot be compared.
        ("url", shown) if is_hidden(shown) => false,
        ("headers", shown) => ours.as_object().is_some_and(|ours| {
            ours.iter()
                .any(|(name, value)| &shown[name] != value && !is_hidden(&shown[name]))
        }),
        ("reconnectionOptions", shown) => ours.as_object().is_some_and(|ours| {
            ours.iter()
                .any(|(name, value)| shown[name].as_f64() != value.as_f64())
        }),
        (_, shown) => shown != ours,
    };
    body.as_object()?
        .iter()
        .find(|(field, ours)| differs(field, ours))
        .map(|(field, _)| field.clone())
}

/// Returns a secret, or the reason why it cannot be imported. The document must name the user and the server.
fn secret(
    document: &Value,
    servers: &BTreeSet<String>,
    key: &PredecessorKey,
) -> Result<SecretImport, String> {
    let user = text(document, "username");
    let full_name = text(document, "key");
    let description = format!("the secret {full_name} of {user}");
    let name = |text: &str| {
        text.parse::<SecretName>()
            .map_err(|why| format!("{description}: the name {why}"))
    };
    let (server, secret) = match document["server"].as_str() {
        Some(server) => {
            let server: ServerName = server
                .parse()
                .map_err(|why| format!("{description}: the name of the server {why}"))?;
            let plain = plain_name(&server, name(&full_name)?);
            (server, plain)
        }
        None => {
            // The name of a server may contain dots, so the longest name that fits is the server.
            let fits = |server: &&String| {
                full_name
                    .strip_prefix(server.as_str())
                    .is_some_and(|rest| rest.starts_with('.') && rest.len() > 1)
            };
            let server = servers
                .iter()
                .filter(fits)
                .max_by_key(|server| server.len());
            let server = server.ok_or_else(|| format!("{description}: it names no server"))?;
            let server: ServerName = server
                .parse()
                .map_err(|why| format!("{description}: {why}"))?;
            (
                server.clone(),
                name(&full_name[server.as_str().len() + 1..])?,
            )
        }
    };
    let owner: UserName = user
        .parse()
        .map_err(|why| format!("{description}: the name of the user {why}"))?;
    let sealed = document["value"]
        .as_str()
        .ok_or_else(|| format!("{description}: it has no value"))?;
    let value = key.open(sealed).map_err(|_| {
        format!("{description}: the SECRETS_KEY of the predecessor does not open it")
    })?;
    value
        .expose()
        .map_err(|_| format!("{description}: the value is no text"))?;
    Ok(SecretImport {
        user: owner,
        server,
        name: secret,
        value,
    })
}

pub(super) fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_default().to_owned()
}
