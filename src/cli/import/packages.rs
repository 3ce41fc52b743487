//! Turns packages of the predecessor into requests that install them.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Value};

use super::plan::{server_body, text};
use crate::core::model::package::FOLDER;

/// The fields that only a Python package has.
const PYTHON_FIELDS: [&str; 5] = [
    "pythonModule",
    "pythonArgs",
    "pipDependencies",
    "pipIndexUrl",
    "pipExtraIndexUrl",
];
/// The states of a package that was installed once. A failed upgrade leaves the earlier version in use.
const INSTALLED: [&str; 4] = ["installed", "installing", "upgrading", "error"];
/// The folders that an installation creates again.
const CREATED_FOLDERS: [&str; 2] = ["/node_modules", "/bin/"];
/// The signs that may precede a path in an argument or a variable.
const PATH_SEPARATORS: [char; 4] = ['=', ':', ',', ' '];

/// A package with its server. `Display` does not show the body.
pub(super) struct PackageImport {
    pub name: String,
    pub server: String,
    /// The body of the request. No message shows the body, because it may contain the credentials of an index.
    pub body: Value,
    /// The differences between the imported package and the one of the predecessor.
    differences: Vec<String>,
}

impl fmt::Display for PackageImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.name, self.server)
    }
}

impl PackageImport {
    /// Names the package in messages.
    pub(super) fn description(&self) -> String {
        format!("the package {} of the server {}", self.name, self.server)
    }

    /// Returns one sentence per difference.
    pub(super) fn differences(&self) -> impl Iterator<Item = String> {
        self.differences
            .iter()
            .map(|difference| format!("{}: {difference}", self.description()))
    }
}

/// Returns the request that installs the package with the settings of its server, or the reason why the package cannot
/// be imported.
pub(super) fn package(
    document: &Value,
    servers: &HashMap<&str, &Value>,
) -> Result<PackageImport, String> {
    let name = text(document, "name");
    let server = text(document, "mcpServerId");
    let status = document["status"].as_str().unwrap_or("installed");
    if server.is_empty() {
        return Err(format!(
            "the package {name}: it was never installed (status {status}) and has no server"
        ));
    }
    let mut package = PackageImport {
        name,
        server,
        body: Value::Null,
        differences: vec![],
    };
    let refused = |package: &PackageImport, why: &str| format!("{}: {why}", package.description());
    if !INSTALLED.contains(&status) {
        return Err(refused(
            &package,
            &format!("its status is {status}, so neither the package nor the server is imported"),
        ));
    }
    let server = servers
        .get(&*package.server)
        .ok_or_else(|| refused(&package, "this server does not exist any more"))?;
    let mut body = server_body(server).map_err(|why| refused(&package, &why))?;
    body.insert("serverName".into(), package.server.clone().into());
    body.insert("name".into(), package.name.clone().into());
    let is_python = document["runtime"] == "python";
    let fields = ["version", "runtime", "enabled"]
        .iter()
        .chain(if is_python { &PYTHON_FIELDS[..] } else { &[] });
    for field in fields.filter(|field| !document[**field].is_null()) {
        // `enabled` of the server counts more than `enabled` of the package.
        body.entry(*field)
            .or_insert_with(|| document[*field].clone());
    }
    if status != "installed" {
        package.differences.push(format!(
            "its status is {status}, and the import installs it"
        ));
    }
    if matches!(document["version"].as_str(), None | Some("" | "latest")) {
        package
            .differences
            .push("its version is unknown, and the import installs the newest".into());
        body.remove("version");
    }
    let folder = text(document, "installPath");
    let folder = folder.trim_start_matches("./").trim_end_matches('/');
    package.differences.extend(move_paths(&mut body, folder));
    if is_python {
        without_python(&mut body)
    } else {
        without_node(&mut body, &package.name)
    }
    package.body = body.into();
    Ok(package)
}

/// Turns paths into the predecessor's folder into paths into the new folder. Returns one sentence per field that names
/// another path of the predecessor's folder.
fn move_paths(body: &mut Map<String, Value>, folder: &str) -> Vec<String> {
    let mut differences = vec![];
    for field in ["command", "args", "env"] {
        let texts: Vec<&mut Value> = match body.get_mut(field) {
            Some(Value::Array(texts)) => texts.iter_mut().collect(),
            Some(Value::Object(texts)) => texts.values_mut().collect(),
            Some(text) => vec![text],
            None => vec![],
        };
        let mut names_folder = false;
        for value in texts {
            if let Some(text) = value.as_str() {
                let moved = move_path(text, folder);
                names_folder |= mentions(&moved, folder);
                *value = moved.into();
            }
        }
        if names_folder {
            differences.push(format!(
                "its {field} names {folder}, and the files there are not imported"
            ));
        }
    }
    differences
}

fn move_path(text: &str, folder: &str) -> String {
    let moved = |piece: &str| match piece.split_once(folder) {
        Some((before, rest))
            if (matches!(before, "" | "./")
                || (before.starts_with('/') && before.ends_with('/')))
                && CREATED_FOLDERS.iter().any(|made| rest.starts_with(made)) =>
        {
            format!("{FOLDER}{rest}")
        }
        _ => piece.to_owned(),
    };
    if folder.is_empty() {
        text.to_owned()
    } else {
        text.split_inclusive(PATH_SEPARATORS).map(moved).collect()
    }
}

/// Returns whether a text contains a path into a folder. `packages/ab` is not a path into `packages/a`.
fn mentions(text: &str, folder: &str) -> bool {
    let is_whole = |rest: &str| {
        !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    !folder.is_empty()
        && text
            .match_indices(folder)
            .any(|(start, _)| is_whole(&text[start + folder.len()..]))
}

/// Removes the command that the predecessor generated for an npm package, because the package names its own program,
/// also after an upgrade.
fn without_node(body: &mut Map<String, Value>, name: &str) {
    let main = format!("{FOLDER}/node_modules/{name}");
    let args = strings(body, "args");
    let own = args.first().and_then(|first| first.strip_prefix(&main));
    if program(body) == "node" && own.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        body.remove("command");
        body.insert("args".into(), args[1..].into());
    }
}

/// Removes the command that the predecessor generated for a Python package, and keeps the arguments of its module.
fn without_python(body: &mut Map<String, Value>) {
    let args = strings(body, "args");
    let Some(module_option) = args.iter().position(|arg| arg == "-m") else {
        return;
    };
    let only_options = args[..module_option].iter().all(|arg| arg.starts_with('-'));
    let is_module = args
        .get(module_option + 1)
        .is_some_and(|module| body.get("pythonModule") == Some(&module.as_str().into()));
    if program(body).starts_with("python") && only_options && is_module {
        body.remove("command");
        body.remove("args");
        body.insert("pythonArgs".into(), args[module_option + 2..].into());
    }
}

/// Returns the file name of the command.
fn program(body: &Map<String, Value>) -> String {
    let command = body
        .get("command")
        .and_then(Value::as_str)
        .unwrap_or_default();
    command.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Returns a list of texts. The list is empty if an element is not a text; the API then refuses the body.
fn strings(body: &Map<String, Value>, field: &str) -> Vec<String> {
    let list = body.get(field).and_then(Value::as_array);
    let texts = list.map(|list| {
        list.iter()
            .map(|text| text.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
    });
    texts.flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn import(document: &Value, server: &Value) -> Result<PackageImport, String> {
        package(document, &[("s", server)].into())
    }

    #[test]
    fn an_npm_package_starts_its_own_program() {
        let document = json!({ "name": "@a/b", "version": "1.0.0", "mcpServerId": "s", "status": "installed",
            "installPath": "packages/a-b", "enabled": true, "pythonArgs": [] });
        let main = "./packages/a-b/node_modules/@a/b/dist/index.js";
        let server = json!({ "name": "s", "command": "node", "args": [main, "--all"], "startupTimeout": 9000,
            "enabled": false, "secretName": "TOKEN", "env": {
                "NODE_PATH": "/srv/packages/a-b/node_modules:./packages/a-bc/node_modules", "A": "b" } });
        let package = import(&document, &server).expect("imported");
        let wanted = json!({ "name": "@a/b", "version": "1.0.0", "serverName": "s", "transportType": "stdio",
            "args": ["--all"], "startupTimeout": 9000, "enabled": false, "secretNames": ["TOKEN"], "env": {
                "NODE_PATH": "${package}/node_modules:./packages/a-bc/node_modules", "A": "b" } });
        assert_eq!(package.body, wanted);
        assert_eq!(package.differences().count(), 0);

        // Another command stays, and an unknown version is not requested.
        let mut document = document;
        document["version"] = json!("latest");
        document["status"] = json!("error");
        let server = json!({ "name": "s", "command": "node", "env": { "FILE": "./packages/a-b/data.json" },
            "args": ["--inspect", main] });
        let package = import(&document, &server).expect("imported");
        assert_eq!(package.body["command"], "node");
        let args = json!(["--inspect", "${package}/node_modules/@a/b/dist/index.js"]);
        assert_eq!(
            (&package.body["args"], &package.body["enabled"]),
            (&args, &json!(true))
        );
        assert!(package.body.get("version").is_none());
        let sentences: Vec<_> = package.differences().collect();
        assert_eq!(sentences.len(), 3, "{sentences:?}");
        let wanted = "the package @a/b of the server s: its env names packages/a-b, and the files there are not";
        assert!(sentences[2].starts_with(wanted), "{sentences:?}");
    }

    #[test]
    fn a_python_package_starts_its_module() {
        let document = json!({ "name": "p", "version": "2.0", "mcpServerId": "s", "runtime": "python",
            "pythonModule": "p_p", "pythonArgs": ["--old"], "pipIndexUrl": "https://u:p@h/simple",
            "pipExtraIndexUrl": null, "installPath": "packages/python/s", "venvPath": "packages/python/s" });
        let server = json!({ "name": "s", "command": "/srv/packages/python/s/bin/python",
            "args": ["-u", "-m", "p_p", "--new"] });
        let wanted = json!({ "name": "p", "version": "2.0", "serverName": "s", "transportType": "stdio",
            "runtime": "python", "pythonModule": "p_p", "pythonArgs": ["--new"],
            "pipIndexUrl": "https://u:p@h/simple" });
        assert_eq!(import(&document, &server).expect("imported").body, wanted);
        let server =
            json!({ "name": "s", "command": "packages/python/s/bin/p", "args": ["-m", "other"] });
        let body = import(&document, &server).expect("imported").body;
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
    fn a_package_without_a_server_is_skipped() {
        let server = json!({ "name": "s", "command": "node" });
        for (document, why) in [
            (
                json!({ "name": "p", "status": "installing" }),
                "the package p: it was never installed (status i",
            ),
            (
                json!({ "name": "p", "mcpServerId": "t" }),
                "the package p of the server t: this server does not exist",
            ),
            (
                json!({ "name": "p", "mcpServerId": "s", "status": "removing" }),
                "server s: its status is removing",
            ),
        ] {
            let reason = import(&document, &server).err().expect("refused");
            assert!(reason.contains(why), "{reason}");
        }
    }
}
