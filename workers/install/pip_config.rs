//! Reads the settings of pip as pip reads them: its configuration files, and the variables `PIP_*`.
//!
//! Other installers do not read these settings, so the worker translates them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The variable that names one more configuration file.
const CONFIG_FILE: &str = "PIP_CONFIG_FILE";
/// As the value of `PIP_CONFIG_FILE`, this file says that no configuration file is read.
const NO_FILES: &str = "/dev/null";
/// The configuration files of the machine. A later file wins.
const SYSTEM_FILES: [&str; 2] = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf"];
/// The configuration files in the home folder. A later file wins.
const USER_FILES: [&str; 2] = [".pip/pip.conf", ".config/pip/pip.conf"];
/// The sections that count for `pip install`. The second section wins.
const SECTIONS: [&str; 2] = ["global", "install"];

/// The settings of pip by the names of their options, such as `index-url`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PipSettings(BTreeMap<String, String>);

/// A configuration that pip refuses.
#[derive(Debug, thiserror::Error)]
pub(super) enum PipConfigError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no configuration file of pip", path.display())]
    Malformed { path: PathBuf },
}

/// A setting in a section of a configuration file.
type Setting = (String, String, String);

impl PipSettings {
    /// Returns the settings of the machine, the user and the variables. Variables win.
    ///
    /// # Errors
    /// Fails if a configuration file cannot be read or parsed.
    pub(super) fn read(
        variables: &[(String, String)],
        home: Option<&Path>,
    ) -> Result<Self, PipConfigError> {
        let mut of_files = Vec::new();
        for path in config_files(variables, home) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(source) if is_absent(&source) => continue,
                Err(source) => return Err(PipConfigError::Read { path, source }),
            };
            of_files.extend(parse(&text).ok_or(PipConfigError::Malformed { path })?);
        }
        Ok(Self::merged(&of_files, variables))
    }

    fn merged(of_files: &[Setting], variables: &[(String, String)]) -> Self {
        let mut settings = BTreeMap::new();
        for wanted in SECTIONS {
            for (section, name, value) in of_files {
                if section == wanted {
                    settings.insert(name.clone(), value.clone());
                }
            }
        }
        for (name, value) in variables {
            if let Some(name) = name.strip_prefix("PIP_")
                && !value.is_empty()
            {
                settings.insert(option_name(name), value.clone());
            }
        }
        Self(settings)
    }

    /// Returns the names and values of all settings.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let settings = self.0.iter();
        settings.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Returns the configuration files in the order in which pip reads them.
fn config_files(variables: &[(String, String)], home: Option<&Path>) -> Vec<PathBuf> {
    let named = variables.iter().find(|(name, _)| name == CONFIG_FILE);
    let named = named.map(|(_, path)| path.as_str());
    if named == Some(NO_FILES) {
        return vec![];
    }
    let mut files: Vec<PathBuf> = SYSTEM_FILES.iter().map(PathBuf::from).collect();
    if let Some(home) = home {
        files.extend(USER_FILES.iter().map(|file| home.join(file)));
    }
    files.extend(named.map(PathBuf::from));
    files
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Parses a file as Python's `RawConfigParser` does. Returns `None` if that parser refuses the file.
fn parse(text: &str) -> Option<Vec<Setting>> {
    let mut section: Option<String> = None;
    let mut settings: Vec<Setting> = Vec::new();
    // The indentation of the option whose value can continue on the next line.
    let mut open_option: Option<usize> = None;
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let indentation = line.len() - line.trim_start().len();
        if open_option.is_some_and(|of_option| indentation > of_option) {
            let (_, _, value) = settings.last_mut()?;
            value.push('\n');
            value.push_str(content);
            continue;
        }
        if let Some(header) = content.strip_prefix('[') {
            let (name, _) = header.split_once(']')?;
            section = Some(name.to_owned());
            open_option = None;
            continue;
        }
        let (name, value) = content.split_once(['=', ':'])?;
        let name = option_name(name.trim());
        settings.push((section.clone()?, name, value.trim().to_owned()));
        open_option = Some(indentation);
    }
    Some(settings)
}

/// Returns the name of an option in the form `index-url`.
fn option_name(text: &str) -> String {
    let name = text.to_ascii_lowercase().replace('_', "-");
    name.trim_start_matches("--").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn settings(pairs: &[(&str, &str)]) -> PipSettings {
        PipSettings(owned(pairs).into_iter().collect())
    }

    #[test]
    fn variables_win_over_sections_and_files() {
        let home = tempfile::TempDir::new().expect("a folder");
        for (file, text) in [
            (
                ".pip/pip.conf",
                "[global]\nindex-url = https://old/simple\ntimeout: 60\n",
            ),
            (
                ".config/pip/pip.conf",
                "# a comment\n[install]\npre = true\nfind-links =\n    /one\n    /two\n[global]\nindex_url = https://new/simple\npre = false\n; another\n[list]\nformat = json\n",
            ),
        ] {
            let path = home.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let none = owned(&[("PIP_CONFIG_FILE", "/dev/null"), ("PIP_RETRIES", "5")]);
        let read = PipSettings::read(&none, Some(home.path())).expect("settings");
        let expected = settings(&[("config-file", "/dev/null"), ("retries", "5")]);
        assert_eq!(read, expected);

        let variables = owned(&[("PIP_EXTRA_INDEX_URL", "https://x"), ("PIP_TIMEOUT", "")]);
        let read = PipSettings::read(&variables, Some(home.path())).expect("settings");
        let value = |name: &str| read.0.get(name).map(String::as_str);
        assert_eq!(value("index-url"), Some("https://new/simple"));
        assert_eq!(value("extra-index-url"), Some("https://x"));
        assert_eq!(value("find-links"), Some("\n/one\n/two"));
        assert_eq!(value("pre"), Some("true"));
        assert_eq!(value("timeout"), Some("60"));
        assert_eq!(value("format"), None);
    }

    #[test]
    fn a_file_that_pip_refuses_is_an_error() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let file = folder.path().join("pip.conf");
        let variables = owned(&[("PIP_CONFIG_FILE", &file.to_string_lossy())]);
        for text in ["index-url = x\n", "[global\nx = 1\n", "[global]\nnothing\n"] {
            fs::write(&file, text).expect("a file");
            let error = PipSettings::read(&variables, None).expect_err(text);
            assert!(matches!(error, PipConfigError::Malformed { .. }), "{text}");
        }
        fs::remove_file(&file).expect("a file");
        fs::create_dir(&file).expect("a folder");
        let error = PipSettings::read(&variables, None).expect_err("a folder");
        assert!(matches!(error, PipConfigError::Read { .. }), "{error}");
    }
}
