//! What is to be taken over of an original, and what cannot be, and why.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::grants::{GrantImport, grant};
use super::packages::{PackageImport, package};
use crate::adapters::predecessor_mongo::PredecessorData;
use crate::core::model::package::python_name;
use crate::core::model::secret::plain_name;
use crate::core::names::{SecretName, ServerName, UserName};
use crate::crypto::predecessor::PredecessorKey;
use crate::crypto::seal::Plaintext;

/// Fields of a server that are taken, by transport.
const OF_ALL: [&str; 3] = ["name", "startupTimeout", "enabled"];
const OF_STDIO: [&str; 3] = ["command", "args", "env"];
const OF_HTTP: [&str; 4] = ["url", "headers", "sessionId", "reconnectionOptions"];

/// What the API has.
pub struct ExistingState {
    pub servers: Vec<Value>,
    pub packages: Vec<Value>,
}

pub struct ImportPlan {
    /// To be registered: the bodies of the requests.
    pub servers: Vec<Value>,
    pub servers_there: usize,
    /// To be installed, each with its server.
    pub packages: Vec<PackageImport>,
    pub packages_there: usize,
    /// The servers that are there, or will be.
    pub names: BTreeSet<String>,
    pub secrets: Vec<SecretImport>,
    pub secrets_there: usize,
    pub grants: Vec<GrantImport>,
    pub grants_there: usize,
    /// A sentence each. Never with a value.
    pub not_taken: Vec<String>,
    /// There are secrets, and the key opens none.
    pub wrong_key: bool,
}

pub struct SecretImport {
    pub user: UserName,
    pub server: ServerName,
    pub name: SecretName,
    pub value: Plaintext,
}

impl SecretImport {
    pub fn called(&self) -> String {
        format!(
            "the secret {} of {} for {}",
            self.name, self.user, self.server
        )
    }
}

impl ImportPlan {
    pub fn make(
        found: &PredecessorData,
        there: &ExistingState,
        key: &PredecessorKey,
        now_ms: u64,
    ) -> Self {
        let names = there
            .servers
            .iter()
            .filter_map(|server| server["name"].as_str())
            .map(str::to_owned);
        let mut plan = Self {
            servers: vec![],
            servers_there: 0,
            packages: vec![],
            packages_there: 0,
            names: names.collect(),
            secrets: vec![],
            secrets_there: 0,
            grants: vec![],
            grants_there: 0,
            not_taken: vec![],
            wrong_key: false,
        };
        plan.servers_and_packages(found, there);
        let known = plan.names.clone();
        let opens = |secret: &Value| key.open(&text(secret, "value")).is_ok();
        plan.wrong_key = !found.secrets.is_empty() && !found.secrets.iter().any(opens);
        for document in &found.secrets {
            match secret(document, &known, key) {
                Ok(secret) => plan.secret(secret),
                Err(why) => plan.not_taken.push(why),
            }
        }
        for document in &found.tokens {
            match grant(document, key, now_ms) {
                Ok(grant) => plan.grants.push(grant),
                Err(why) => plan.not_taken.push(why),
            }
        }
        plan
    }

    /// A package brings its server: the original's own starts from folders that are not there.
    fn servers_and_packages(&mut self, found: &PredecessorData, there: &ExistingState) {
        let mut servers = HashMap::new();
        for document in &found.servers {
            servers
                .entry(document["name"].as_str().unwrap_or_default())
                .or_insert(document);
        }
        for document in &found.packages {
            match package(document, &servers) {
                Ok(package) => self.package(package, there),
                Err(why) => self.not_taken.push(why),
            }
        }
        let of_packages: HashSet<_> = found
            .packages
            .iter()
            .filter_map(|one| one["mcpServerId"].as_str())
            .collect();
        let there = there
            .servers
            .iter()
            .filter_map(|server| Some((server["name"].as_str()?, server)))
            .collect();
        for document in &found.servers {
            let name = document["name"].as_str().unwrap_or_default();
            if !of_packages.contains(name) {
                self.server(document, &there);
            } else if !std::ptr::eq(servers[name], document) {
                self.not_taken.push(twice(name));
            }
        }
    }

    fn package(&mut self, package: PackageImport, there: &ExistingState) {
        let normal = |name: &str| python_name(&name.parse().ok()?).ok();
        let same = |shown: &Value| {
            shown["name"] == *package.name
                || (normal(&package.name).is_some_and(|name| shown["name"] == *name.as_str()))
        };
        let shown = there
            .packages
            .iter()
            .find(|shown| shown["mcpServerId"] == *package.server);
        let server = &package.server;
        if shown.is_some_and(same) {
            self.packages_there += 1;
        } else if there.servers.iter().any(|shown| shown["name"] == **server) {
            self.not_taken.push(format!(
                "{}: a server of that name is there already, without this package, and stays as it is",
                package.called()
            ));
        } else if !self.names.insert(server.clone()) {
            self.not_taken.push(format!(
                "{}: the server has two packages, and the first is taken",
                package.called()
            ));
        } else {
            self.packages.push(package);
        }
    }

    fn server(&mut self, document: &Value, there: &HashMap<&str, &Value>) {
        let body = match body(document) {
            Ok(body) => Value::from(body),
            Err(why) => {
                return self
                    .not_taken
                    .push(format!("the server {}: {why}", text(document, "name")));
            }
        };
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        match there.get(name.as_str()) {
            Some(shown) => match difference(&body, shown) {
                Some(field) => self.not_taken.push(format!(
                    "the server {name}: one of that name is there already, with another {field}, and stays as it is"
                )),
                None => self.servers_there += 1,
            },
            None if !self.names.insert(name.clone()) => self.not_taken.push(twice(&name)),
            None => self.servers.push(body),
        }
    }

    fn secret(&mut self, secret: SecretImport) {
        let same = |other: &&SecretImport| {
            (&other.user, &other.server, &other.name)
                == (&secret.user, &secret.server, &secret.name)
        };
        match self.secrets.iter().find(same) {
            None => self.secrets.push(secret),
            Some(first) if first.value.expose() == secret.value.expose() => {}
            Some(_) => self.not_taken.push(format!(
                "{}: it is there twice, and the first is taken",
                secret.called()
            )),
        }
    }

    /// What belongs to servers that are not there cannot be taken.
    pub fn settle(&mut self) {
        let there = |server: &ServerName| self.names.contains(server.as_str());
        let (secrets, no_secrets): (Vec<_>, Vec<_>) = self
            .secrets
            .drain(..)
            .partition(|secret| there(&secret.server));
        let (grants, no_grants): (Vec<_>, Vec<_>) = self
            .grants
            .drain(..)
            .partition(|grant| there(&grant.server));
        (self.secrets, self.grants) = (secrets, grants);
        let left = no_secrets
            .iter()
            .map(SecretImport::called)
            .chain(no_grants.iter().map(|grant| grant.called.clone()));
        self.not_taken
            .extend(left.map(|called| format!("{called}: the server is not there")));
    }

    /// A server that was refused.
    pub fn refuse(&mut self, name: &str, why: &str) {
        self.names.remove(name);
        self.servers.retain(|server| server["name"] != name);
        self.not_taken.push(format!("the server {name}: {why}"));
    }

    /// A package that was refused, and its server with it.
    pub fn refuse_package(&mut self, package: &PackageImport, why: &str) {
        self.names.remove(&package.server);
        self.not_taken.push(format!("{}: {why}", package.called()));
    }
}

fn twice(name: &str) -> String {
    format!("the server {name}: the name is there twice, and the first is taken")
}

/// What would register the server.
pub fn body(document: &Value) -> Result<Map<String, Value>, String> {
    let name: ServerName = text(document, "name")
        .parse()
        .map_err(|why| format!("its name {why}"))?;
    let transport = document["transportType"].as_str().unwrap_or("stdio");
    let own: &[&str] = match transport {
        "stdio" => &OF_STDIO,
        "streamable_http" => &OF_HTTP,
        other => return Err(format!("its transportType {other} is none that is known")),
    };
    let mut body = Map::new();
    body.insert("transportType".into(), transport.into());
    for field in OF_ALL.iter().chain(own) {
        match &document[*field] {
            Value::Null => {}
            value => drop(body.insert((*field).into(), value.clone())),
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
    let mut taken: Vec<String> = vec![];
    for secret in names {
        let secret = plain_name(
            &name,
            secret
                .parse()
                .map_err(|why| format!("one of its secretNames {why}"))?,
        );
        if !taken.iter().any(|there| there == secret.as_str()) {
            taken.push(secret.as_str().to_owned());
        }
    }
    if !taken.is_empty() {
        body.insert("secretNames".into(), json!(taken));
    }
    Ok(body)
}

/// The field in which the server that is there differs. Whether it is enabled, and its session, may have changed.
fn difference(body: &Value, shown: &Value) -> Option<String> {
    let hidden = |shown: &Value| shown.as_str().is_some_and(|shown| shown.contains("***"));
    let differs = |field: &str, ours: &Value| match (field, &shown[field]) {
        ("enabled" | "sessionId", _) => false,
        // What is sealed cannot be compared.
        ("url", shown) if hidden(shown) => false,
        ("headers", shown) => ours.as_object().is_some_and(|ours| {
            ours.iter()
                .any(|(name, value)| &shown[name] != value && !hidden(&shown[name]))
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

/// A secret, or why it cannot be taken. Whose it is and what for is said, never guessed.
fn secret(
    document: &Value,
    servers: &BTreeSet<String>,
    key: &PredecessorKey,
) -> Result<SecretImport, String> {
    let (user, full) = (text(document, "username"), text(document, "key"));
    let called = format!("the secret {full} of {user}");
    let name = |text: &str| {
        text.parse::<SecretName>()
            .map_err(|why| format!("{called}: its name {why}"))
    };
    let (server, secret) = match document["server"].as_str() {
        Some(server) => {
            let server: ServerName = server
                .parse()
                .map_err(|why| format!("{called}: its server's name {why}"))?;
            let plain = plain_name(&server, name(&full)?);
            (server, plain)
        }
        None => {
            // A server's name may have dots of its own: of those that fit, the longest is meant.
            let fits = |server: &&String| {
                full.strip_prefix(server.as_str())
                    .is_some_and(|rest| rest.starts_with('.') && rest.len() > 1)
            };
            let server = servers
                .iter()
                .filter(fits)
                .max_by_key(|server| server.len());
            let server = server
                .ok_or_else(|| format!("{called}: it does not say for which server it is"))?;
            let server: ServerName = server.parse().map_err(|why| format!("{called}: {why}"))?;
            (server.clone(), name(&full[server.as_str().len() + 1..])?)
        }
    };
    let owner: UserName = user
        .parse()
        .map_err(|why| format!("{called}: its user's name {why}"))?;
    let sealed = document["value"]
        .as_str()
        .ok_or_else(|| format!("{called}: it has no value"))?;
    let value = key
        .open(sealed)
        .map_err(|_| format!("{called}: the original's SECRETS_KEY does not open it"))?;
    value
        .expose()
        .map_err(|_| format!("{called}: its value is no text"))?;
    Ok(SecretImport {
        user: owner,
        server,
        name: secret,
        value,
    })
}

pub fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_default().to_owned()
}
