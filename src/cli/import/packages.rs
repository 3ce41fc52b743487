//! An original's packages as requests that install them anew.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Value};

use super::plan::{body, text};
use crate::core::model::package::FOLDER;

/// Fields that only a Python package has.
const OF_PYTHON: [&str; 5] = [
    "pythonModule",
    "pythonArgs",
    "pipDependencies",
    "pipIndexUrl",
    "pipExtraIndexUrl",
];
/// States of what has been installed once: an upgrade that failed has left its server in use.
const INSTALLED: [&str; 4] = ["installed", "installing", "upgrading", "error"];
/// What an installation makes in its folder, and so will be there again.
const MADE: [&str; 2] = ["/node_modules", "/bin/"];
/// What may stand before a path in an argument or a variable.
const BEFORE: [char; 4] = ['=', ':', ',', ' '];

/// A package, and its server with it. Shown without its body.
pub struct PackageImport {
    pub name: String,
    pub server: String,
    /// With the credentials of an index in it: never shown.
    pub body: Value,
    /// In what it will not be as it was.
    different: Vec<String>,
}

impl fmt::Display for PackageImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.name, self.server)
    }
}

impl PackageImport {
    pub fn called(&self) -> String {
        format!("the package {} of the server {}", self.name, self.server)
    }

    /// A sentence each.
    pub fn differences(&self) -> impl Iterator<Item = String> {
        self.different
            .iter()
            .map(|what| format!("{}: {what}", self.called()))
    }
}

/// What would install the package with the settings of its server, or why it cannot be taken.
pub fn package(document: &Value, servers: &HashMap<&str, &Value>) -> Result<PackageImport, String> {
    let (name, server) = (text(document, "name"), text(document, "mcpServerId"));
    let status = document["status"].as_str().unwrap_or("installed");
    if server.is_empty() {
        return Err(format!(
            "the package {name}: it was never installed; its status is {status}, and it has no server"
        ));
    }
    let mut package = PackageImport {
        name,
        server,
        body: Value::Null,
        different: vec![],
    };
    let refused = |package: &PackageImport, why: &str| format!("{}: {why}", package.called());
    if !INSTALLED.contains(&status) {
        return Err(refused(
            &package,
            &format!("its status is {status}, and so neither is taken"),
        ));
    }
    let of = servers
        .get(&*package.server)
        .ok_or_else(|| refused(&package, "there is no such server any more"))?;
    let mut body = body(of).map_err(|why| refused(&package, &why))?;
    body.insert("serverName".into(), package.server.clone().into());
    body.insert("name".into(), package.name.clone().into());
    let python = document["runtime"] == "python";
    let fields =
        ["version", "runtime", "enabled"]
            .iter()
            .chain(if python { &OF_PYTHON[..] } else { &[] });
    for field in fields.filter(|field| !document[**field].is_null()) {
        // Whether it is enabled, its server knows better.
        body.entry(*field)
            .or_insert_with(|| document[*field].clone());
    }
    if status != "installed" {
        package.different.push(format!(
            "its status is {status}, and it is installed all the same"
        ));
    }
    if matches!(document["version"].as_str(), None | Some("" | "latest")) {
        package
            .different
            .push("which version it has is not written down, and the newest is installed".into());
        body.remove("version");
    }
    let folder = text(document, "installPath");
    let folder = folder.trim_start_matches("./").trim_end_matches('/');
    package.different.extend(place(&mut body, folder));
    if python {
        without_python(&mut body)
    } else {
        without_node(&mut body, &package.name)
    }
    package.body = body.into();
    Ok(package)
}

/// Paths into the original's folder become paths into the new one; names the fields that have others.
fn place(body: &mut Map<String, Value>, folder: &str) -> Vec<String> {
    let mut left = vec![];
    for field in ["command", "args", "env"] {
        let texts: Vec<&mut Value> = match body.get_mut(field) {
            Some(Value::Array(texts)) => texts.iter_mut().collect(),
            Some(Value::Object(texts)) => texts.values_mut().collect(),
            Some(text) => vec![text],
            None => vec![],
        };
        let mut names = false;
        for value in texts {
            if let Some(text) = value.as_str() {
                let placed = placed(text, folder);
                names |= mentions(&placed, folder);
                *value = placed.into();
            }
        }
        if names {
            left.push(format!(
                "its {field} names {folder}, and what lies there is not taken along"
            ));
        }
    }
    left
}

fn placed(text: &str, folder: &str) -> String {
    let placed = |piece: &str| match piece.split_once(folder) {
        Some((before, rest))
            if (matches!(before, "" | "./")
                || (before.starts_with('/') && before.ends_with('/')))
                && MADE.iter().any(|made| rest.starts_with(made)) =>
        {
            format!("{FOLDER}{rest}")
        }
        _ => piece.to_owned(),
    };
    if folder.is_empty() {
        text.to_owned()
    } else {
        text.split_inclusive(BEFORE).map(placed).collect()
    }
}

/// Whether it has a path into that folder: `packages/a` is not the beginning of `packages/ab`.
fn mentions(text: &str, folder: &str) -> bool {
    let whole = |rest: &str| {
        !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    !folder.is_empty()
        && text
            .match_indices(folder)
            .any(|(at, _)| whole(&text[at + folder.len()..]))
}

/// How the original starts a package of npm by itself is left out: the package says it, also after an upgrade.
fn without_node(body: &mut Map<String, Value>, name: &str) {
    let main = format!("{FOLDER}/node_modules/{name}");
    let args = strings(body, "args");
    let own = args.first().and_then(|first| first.strip_prefix(&main));
    if program(body) == "node" && own.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        body.remove("command");
        body.insert("args".into(), args[1..].into());
    }
}

/// The same of a Python package: its module is started, with what follows it.
fn without_python(body: &mut Map<String, Value>) {
    let args = strings(body, "args");
    let Some(at) = args.iter().position(|arg| arg == "-m") else {
        return;
    };
    let options = args[..at].iter().all(|arg| arg.starts_with('-'));
    let module = args
        .get(at + 1)
        .is_some_and(|module| body.get("pythonModule") == Some(&module.as_str().into()));
    if program(body).starts_with("python") && options && module {
        body.remove("command");
        body.remove("args");
        body.insert("pythonArgs".into(), args[at + 2..].into());
    }
}

/// The last part of the command.
fn program(body: &Map<String, Value>) -> String {
    let command = body
        .get("command")
        .and_then(Value::as_str)
        .unwrap_or_default();
    command.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Nothing, where one of them is no text: whoever takes the body says so.
fn strings(body: &Map<String, Value>, field: &str) -> Vec<String> {
    let all = body.get(field).and_then(Value::as_array);
    let texts = all.map(|all| {
        all.iter()
            .map(|text| text.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
    });
    texts.flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(document: &Value, server: &Value) -> Result<PackageImport, String> {
        package(document, &[("s", server)].into())
    }

    #[test]
    fn a_package_of_npm_is_started_as_it_says() {
        let document = json!({ "name": "@a/b", "version": "1.0.0", "mcpServerId": "s", "status": "installed",
            "installPath": "packages/a-b", "enabled": true, "pythonArgs": [] });
        let main = "./packages/a-b/node_modules/@a/b/dist/index.js";
        let server = json!({ "name": "s", "command": "node", "args": [main, "--all"], "startupTimeout": 9000,
            "enabled": false, "secretName": "TOKEN", "env": {
                "NODE_PATH": "/srv/packages/a-b/node_modules:./packages/a-bc/node_modules", "A": "b" } });
        let package = taken(&document, &server).expect("taken");
        let wanted = json!({ "name": "@a/b", "version": "1.0.0", "serverName": "s", "transportType": "stdio",
            "args": ["--all"], "startupTimeout": 9000, "enabled": false, "secretNames": ["TOKEN"], "env": {
                "NODE_PATH": "${package}/node_modules:./packages/a-bc/node_modules", "A": "b" } });
        assert_eq!(package.body, wanted);
        assert_eq!(package.differences().count(), 0);

        // Another command stays, and a version that is not known is not asked for.
        let mut document = document;
        document["version"] = json!("latest");
        document["status"] = json!("error");
        let server = json!({ "name": "s", "command": "node", "env": { "FILE": "./packages/a-b/data.json" },
            "args": ["--inspect", main] });
        let package = taken(&document, &server).expect("taken");
        assert_eq!(package.body["command"], "node");
        let args = json!(["--inspect", "${package}/node_modules/@a/b/dist/index.js"]);
        assert_eq!(
            (&package.body["args"], &package.body["enabled"]),
            (&args, &json!(true))
        );
        assert!(package.body.get("version").is_none());
        let said: Vec<_> = package.differences().collect();
        assert_eq!(said.len(), 3, "{said:?}");
        let wanted = "the package @a/b of the server s: its env names packages/a-b, and what lies there is not taken";
        assert!(said[2].starts_with(wanted), "{said:?}");
    }

    #[test]
    fn a_python_package_is_started_by_its_module() {
        let document = json!({ "name": "p", "version": "2.0", "mcpServerId": "s", "runtime": "python",
            "pythonModule": "p_p", "pythonArgs": ["--old"], "pipIndexUrl": "https://u:p@h/simple",
            "pipExtraIndexUrl": null, "installPath": "packages/python/s", "venvPath": "packages/python/s" });
        let server = json!({ "name": "s", "command": "/srv/packages/python/s/bin/python",
            "args": ["-u", "-m", "p_p", "--new"] });
        let wanted = json!({ "name": "p", "version": "2.0", "serverName": "s", "transportType": "stdio",
            "runtime": "python", "pythonModule": "p_p", "pythonArgs": ["--new"],
            "pipIndexUrl": "https://u:p@h/simple" });
        assert_eq!(taken(&document, &server).expect("taken").body, wanted);
        let server =
            json!({ "name": "s", "command": "packages/python/s/bin/p", "args": ["-m", "other"] });
        let body = taken(&document, &server).expect("taken").body;
        assert_eq!(
            (&body["command"], &body["args"], &body["pythonArgs"]),
            (
                &json!("${package}/bin/p"),
                &json!(["-m", "other"]),
                &json!(["--old"])
            )
        );
    }

    #[test]
    fn what_has_no_server_or_goes_is_not_taken() {
        let server = json!({ "name": "s", "command": "node" });
        for (document, why) in [
            (
                json!({ "name": "p", "status": "installing" }),
                "the package p: it was never installed; its status is i",
            ),
            (
                json!({ "name": "p", "mcpServerId": "t" }),
                "the package p of the server t: there is no such server",
            ),
            (
                json!({ "name": "p", "mcpServerId": "s", "status": "removing" }),
                "server s: its status is removing",
            ),
        ] {
            let said = taken(&document, &server).err().expect("refused");
            assert!(said.contains(why), "{said}");
        }
    }
}
