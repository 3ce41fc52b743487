//! The folders of packages, the settings of installers, and the packages to install at start.

use std::path::{Path, PathBuf};

use super::data_dir::{DATA_DIR, DataDir};
use super::env::{BadConfig, Env, Variable};
use crate::core::model::package::{PackageDirs, split_index};
use crate::core::names::{PackageName, ServerName, VersionTag};

const PACKAGES_DIR: Variable = Variable {
    name: "PACKAGES_DIR",
    default: "packages",
    about: "The folder of installed packages. Only one deployment uses it.",
};
const PYTHON_BIN: Variable = Variable {
    name: "PYTHON_BIN",
    default: "python3",
    about: "The Python that creates virtual environments.",
};
const PYTHON_VENV_DIR: Variable = Variable {
    name: "PYTHON_VENV_DIR",
    default: "packages/python",
    about: "The folder of virtual environments.",
};
const UV_BIN: Variable = Variable {
    name: "UV_BIN",
    default: "",
    about: "The uv that installs Python packages. Without it, the uv on the PATH, or a uv of a fixed version that a worker installs once. none: pip installs them.",
};
const PIP_INDEX_URL: Variable = Variable {
    name: "PIP_INDEX_URL",
    default: "",
    about: "The Python package index for installations that name none. Without it, PyPI.",
};
const PIP_EXTRA_INDEX_URL: Variable = Variable {
    name: "PIP_EXTRA_INDEX_URL",
    default: "",
    about: "A further Python package index for installations that name none.",
};
const INSTALL_ON_START: Variable = Variable {
    name: "INSTALL_ON_START",
    default: "",
    about: "npm packages to install at start if no server of that name exists: package|server, comma-separated. A package may name a version: package@1.2.3|server.",
};

pub(super) const VARIABLES: &[&Variable] = &[
    &PACKAGES_DIR,
    &PYTHON_BIN,
    &PYTHON_VENV_DIR,
    &UV_BIN,
    &PIP_INDEX_URL,
    &PIP_EXTRA_INDEX_URL,
    &INSTALL_ON_START,
];

/// The beginnings of the variables that npm, pip and their helpers read: registries, certificates.
const INSTALLER_VARIABLES: [&str; 6] = [
    "npm_config_",
    "node_",
    "pip_",
    "ssl_cert_",
    "requests_ca_bundle",
    "curl_ca_bundle",
];

#[derive(Clone)]
pub struct Packages {
    pub folders: PackageDirs,
    pub python: String,
    /// `None`: pip installs Python packages.
    pub uv: Option<UvChoice>,
    /// The folders in which a worker finds programs, as in `PATH`.
    pub path: String,
    /// The home folder, which may have a configuration of pip.
    pub home: Option<PathBuf>,
    /// The variables of the installers, which may hold credentials.
    pub env: Vec<(String, String)>,
    pub on_start: Vec<InstallOnStart>,
    /// The folders and indexes without credentials, for `Debug`.
    shown: [String; 4],
}

/// The uv that installs Python packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UvChoice {
    /// A uv on the `PATH`, or else a uv that the worker installs.
    Any,
    Program(String),
}

/// A package to install at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallOnStart {
    pub package: PackageName,
    pub version: Option<VersionTag>,
    pub server: ServerName,
}

// The variables of the installers may be secret.
impl std::fmt::Debug for Packages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            python,
            uv,
            on_start,
            shown,
            ..
        } = self;
        f.debug_struct("Packages")
            .field("from", shown)
            .field("python", python)
            .field("uv", uv)
            .field("on_start", on_start)
            .finish()
    }
}

impl Packages {
    /// Moves all package folders into a folder.
    pub fn move_to(&mut self, folder: &Path) -> Result<(), BadConfig> {
        let absolute = std::path::absolute(folder.join("packages"));
        let node = absolute.map_err(|error| {
            BadConfig::new(PACKAGES_DIR.name, format!("cannot be used: {error}"))
        })?;
        self.folders = PackageDirs {
            python: node.join("python"),
            node,
        };
        Ok(())
    }

    pub fn read(env: &Env, data_dir: &DataDir) -> Result<Self, BadConfig> {
        let base = if env.has(DATA_DIR.name) {
            data_dir.path.clone()
        } else {
            PathBuf::new()
        };
        let folder = |variable: &Variable| {
            let given: PathBuf = env.parse(variable, "a folder")?;
            let absolute = std::path::absolute(base.join(&given));
            let absolute = absolute.map_err(|error| {
                BadConfig::new(variable.name, format!("cannot be used: {error}"))
            })?;
            // Command lines contain the path, and they are text.
            let text = absolute
                .to_str()
                .map(|text| text.trim_end_matches('/').to_owned());
            let text = text.ok_or_else(|| BadConfig::new(variable.name, "must be UTF-8"))?;
            Ok((PathBuf::from(text), given.display().to_string()))
        };
        let ((node, shown_node), (python, shown_python)) =
            (folder(&PACKAGES_DIR)?, folder(&PYTHON_VENV_DIR)?);
        if node == python {
            return Err(BadConfig::new(
                PYTHON_VENV_DIR.name,
                "must be another folder than PACKAGES_DIR, such as packages/python",
            ));
        }
        let url = |variable: &Variable| {
            let Some(url) = env.text(variable) else {
                return Ok(String::new());
            };
            let (shown, _) = split_index(variable.name, &url).map_err(|_| {
                BadConfig::new(
                    variable.name,
                    "must be an http:// or https:// URL, such as https://example.com/simple",
                )
            })?;
            Ok(shown)
        };
        let shown = [
            shown_node,
            shown_python,
            url(&PIP_INDEX_URL)?,
            url(&PIP_EXTRA_INDEX_URL)?,
        ];
        let installers = env
            .beginning_with(&INSTALLER_VARIABLES)
            .into_iter()
            .filter(|(_, value)| !value.trim().is_empty());
        Ok(Self {
            folders: PackageDirs { node, python },
            python: env.parse(&PYTHON_BIN, "a program")?,
            uv: uv_choice(env),
            path: env.raw("PATH").unwrap_or_default().to_owned(),
            home: env.raw("HOME").map(PathBuf::from),
            env: installers.collect(),
            on_start: on_start(env)?,
            shown,
        })
    }
}

fn uv_choice(env: &Env) -> Option<UvChoice> {
    match env.text(&UV_BIN) {
        None => Some(UvChoice::Any),
        Some(text) if text == "none" => None,
        Some(program) => Some(UvChoice::Program(program)),
    }
}

fn on_start(env: &Env) -> Result<Vec<InstallOnStart>, BadConfig> {
    let text = env.text(&INSTALL_ON_START).unwrap_or_default();
    let each = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (package, server) = entry.split_once('|')?;
            // Both a scope and a version begin with `@`.
            let (package, version) = match package.trim().get(1..).and_then(|rest| rest.rfind('@'))
            {
                Some(at) => (&package.trim()[..=at], Some(&package.trim()[at + 2..])),
                None => (package.trim(), None),
            };
            let version = version.map(|version| version.parse()).transpose().ok()?;
            Some(InstallOnStart {
                package: package.parse().ok()?,
                version,
                server: server.trim().parse().ok()?,
            })
        });
    let why = "must be package|server, comma-separated, such as @modelcontextprotocol/server-memory|memory";
    let all: Option<Vec<_>> = each.collect();
    all.ok_or_else(|| BadConfig::new(INSTALL_ON_START.name, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Packages, BadConfig> {
        let env = Env::from_pairs(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        Packages::read(&env, &DataDir::read(&env)?)
    }

    #[test]
    fn folders_are_in_data_dir_if_it_is_set() {
        let folders = read(&[("DATA_DIR", "/d")])
            .expect("a configuration")
            .folders;
        assert_eq!(
            (folders.node, folders.python),
            ("/d/packages".into(), "/d/packages/python".into())
        );
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(
            read(&[]).expect("a configuration").folders.node,
            here.join("packages")
        );
        assert_eq!(
            read(&[("DATA_DIR", "/d"), ("PACKAGES_DIR", "/e/")])
                .expect("a configuration")
                .folders
                .node,
            PathBuf::from("/e")
        );
    }

    #[test]
    fn uv_is_any_uv_a_program_or_none() {
        for (value, expected) in [
            ("", Some(UvChoice::Any)),
            ("none", None),
            ("/opt/uv", Some(UvChoice::Program("/opt/uv".into()))),
        ] {
            let packages = read(&[("UV_BIN", value)]).expect("a configuration");
            assert_eq!(packages.uv, expected);
            assert!(packages.env.is_empty(), "installers do not see UV_BIN");
        }
    }

    #[test]
    fn a_package_to_install_at_start_has_a_server_and_an_optional_version() {
        let one =
            |text: &str| read(&[("INSTALL_ON_START", text)]).map(|packages| packages.on_start);
        let all = one("@a/b@1.2.3|x, c | y").expect("two");
        assert_eq!(
            (
                all[0].package.as_str(),
                all[0].version.as_ref().map(VersionTag::as_str)
            ),
            ("@a/b", Some("1.2.3"))
        );
        assert_eq!(
            (all[1].package.as_str(), all[1].server.as_str()),
            ("c", "y")
        );
        for bad in ["a", "a|", "|b", "-a|b", "a@^1|b", "a|b c"] {
            assert_eq!(one(bad).expect_err(bad).name, "INSTALL_ON_START");
        }
    }

    #[test]
    fn credentials_are_not_printed_and_reach_the_installers() {
        let packages = read(&[
            ("PIP_INDEX_URL", "https://u:hush@h/simple"),
            ("npm_config_x", "1"),
            ("OTHER", "2"),
        ]);
        let packages = packages.expect("a configuration");
        assert!(!format!("{packages:?}").contains("hush"));
        assert_eq!(packages.env.len(), 2);
        assert_eq!(
            read(&[("PIP_INDEX_URL", "ftp://h")])
                .expect_err("refused")
                .name,
            "PIP_INDEX_URL"
        );
    }
}
