//! Translates the settings of pip for uv. uv reads neither pip's configuration files nor `PIP_*`.
//!
//! A setting that changes an installation and has no translation is an error: then pip installs.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Indexes;
use super::pip_config::{PipConfigError, PipSettings};

/// The variables of every uv command. uv uses no Python of its own, and copies files, so that no server can change the
/// files of another folder through uv's cache.
const FIXED: [(&str, &str); 4] = [
    ("UV_PYTHON_DOWNLOADS", "never"),
    ("UV_LINK_MODE", "copy"),
    ("UV_HTTP_RETRIES", "2"),
    ("UV_NO_CONFIG", "1"),
];
/// The settings that do not change an installation, or that the worker chooses itself.
const WITHOUT_EFFECT: [&str; 27] = [
    "break-system-packages",
    "compile",
    "config-file",
    "debug",
    "disable-pip-version-check",
    "dry-run",
    "exists-action",
    "force-reinstall",
    "ignore-installed",
    "log",
    "log-file",
    "no-clean",
    "no-color",
    "no-compile",
    "no-input",
    "no-python-version-warning",
    "no-warn-conflicts",
    "no-warn-script-location",
    "progress-bar",
    "quiet",
    "report",
    "require-virtualenv",
    "retries",
    "root-user-action",
    "upgrade",
    "upgrade-strategy",
    "verbose",
];
/// The variables with which pip finds certificates, if no setting names them. The first variable wins.
const CERTIFICATES: [&str; 2] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
/// The certificates of the system. pip has certificates of its own where the system has none, and so has uv.
const SYSTEM_CERTIFICATES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The settings of uv: variables, because command lines are visible to other users, and options.
#[derive(Default)]
pub(super) struct UvSettings {
    pub variables: Vec<(&'static str, Zeroizing<String>)>,
    /// The options of `uv pip compile` and `uv pip install`.
    pub options: Vec<String>,
}

/// The reason why only pip can work with the settings of this worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum NeedsPip {
    #[error("the settings of pip cannot be read")]
    Config(#[source] PipConfigError),
    #[error("uv has no translation for pip's setting {0}")]
    Setting(String),
}

/// The facts that decide about the settings of uv.
pub(super) struct PipSituation<'a> {
    /// The variables for installers.
    pub variables: &'a [(String, String)],
    pub home: Option<&'a Path>,
    /// The indexes of this installation.
    pub indexes: &'a Indexes,
    /// The folder of uv's cache, if no setting names a cache.
    pub cache: &'a Path,
}

impl PipSituation<'_> {
    /// Returns the settings with which uv installs as pip would install.
    ///
    /// # Errors
    /// Fails if pip's configuration cannot be read, or if a setting has no translation.
    pub(super) fn uv_settings(&self) -> Result<UvSettings, NeedsPip> {
        let of_pip = PipSettings::read(self.variables, self.home).map_err(NeedsPip::Config)?;
        let mut settings = UvSettings::default();
        for (name, value) in FIXED {
            settings.set(name, value);
        }
        settings.set("UV_CACHE_DIR", &self.cache.to_string_lossy());
        self.trust_certificates(&mut settings);
        for (name, value) in of_pip.iter() {
            let value = value.trim();
            if !value.is_empty() && !WITHOUT_EFFECT.contains(&name) {
                let translated = self.translate(&mut settings, name, value);
                translated.ok_or_else(|| NeedsPip::Setting(name.to_owned()))?;
            }
        }
        if let Some(url) = &self.indexes.url {
            settings.set("UV_INDEX_URL", url);
        }
        if let Some(url) = &self.indexes.extra {
            settings.set("UV_EXTRA_INDEX_URL", url);
        }
        // Among several indexes, pip takes the best version of all. With one index, uv names refused credentials only if
        // this variable is absent.
        if settings.has("UV_EXTRA_INDEX_URL") {
            settings.set("UV_INDEX_STRATEGY", "unsafe-best-match");
        }
        Ok(settings)
    }

    /// Translates one setting. Returns `None` if it has no translation.
    fn translate(&self, settings: &mut UvSettings, name: &str, value: &str) -> Option<()> {
        match name {
            "index-url" | "pypi-url" => settings.set("UV_INDEX_URL", value),
            "extra-index-url" => settings.set("UV_EXTRA_INDEX_URL", &joined(value, " ")),
            "find-links" => settings.set("UV_FIND_LINKS", &joined(value, ",")),
            "trusted-host" => settings.set("UV_INSECURE_HOST", &joined(value, " ")),
            "cert" => settings.trust(&self.path(value)),
            "client-cert" => settings.set("SSL_CLIENT_CERT", &self.path(value).to_string_lossy()),
            "proxy" => settings.use_proxy(value),
            "timeout" | "default-timeout" => {
                let seconds: f64 = value.parse().ok()?;
                settings.set(
                    "UV_HTTP_TIMEOUT",
                    &format!("{:.0}", seconds.ceil().max(1.0)),
                );
            }
            "cache-dir" => {
                let folder = self.path(value).join("uv");
                settings.set("UV_CACHE_DIR", &folder.to_string_lossy());
            }
            // pip uses no cache if this setting has any value, even `false`.
            "no-cache-dir" => settings.set("UV_NO_CACHE", "1"),
            "no-index" if to_bool(value)? => settings.options.push("--no-index".into()),
            "pre" if to_bool(value)? => settings.options.push("--prerelease=allow".into()),
            "no-index" | "pre" => {}
            "only-binary" | "no-binary" => {
                let packages = value.split([',', ' ', '\n']).map(str::trim);
                for package in packages.filter(|package| !package.is_empty()) {
                    settings.options.push(format!("--{name}={package}"));
                }
            }
            "prefer-binary" if !to_bool(value)? => {}
            "keyring-provider" if value == "subprocess" => {
                settings.set("UV_KEYRING_PROVIDER", value);
            }
            // Without a terminal, pip finds no other keyring in the environment of its own.
            "keyring-provider" if matches!(value, "auto" | "disabled") => {}
            _ => return None,
        }
        Some(())
    }

    /// Makes uv trust the certificates that pip trusts without a setting.
    fn trust_certificates(&self, settings: &mut UvSettings) {
        let value_of = |wanted: &str| {
            let mut variables = self.variables.iter();
            variables
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value)
        };
        let has_own = value_of("SSL_CERT_FILE").is_some() || value_of("SSL_CERT_DIR").is_some();
        if let Some(path) = CERTIFICATES.into_iter().find_map(value_of) {
            settings.trust(Path::new(path));
        } else if !has_own
            && SYSTEM_CERTIFICATES
                .iter()
                .any(|path| Path::new(path).exists())
        {
            settings.set("UV_SYSTEM_CERTS", "1");
        }
    }

    fn path(&self, value: &str) -> PathBuf {
        match (value.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(value),
        }
    }
}

impl UvSettings {
    /// Sets a variable. A later value wins.
    fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(present, _)| *present != name);
        self.variables
            .push((name, Zeroizing::new(value.to_owned())));
    }

    fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(present, _)| *present == name)
    }

    fn trust(&mut self, path: &Path) {
        let name = if path.is_dir() {
            "SSL_CERT_DIR"
        } else {
            "SSL_CERT_FILE"
        };
        self.set(name, &path.to_string_lossy());
    }

    fn use_proxy(&mut self, value: &str) {
        let url = if value.contains("://") {
            value.to_owned()
        } else {
            format!("http://{value}")
        };
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            self.set(name, &url);
        }
    }
}

fn joined(value: &str, separator: &str) -> String {
    let parts: Vec<_> = value.split_whitespace().collect();
    parts.join(separator)
}

/// Parses a truth value as pip does.
fn to_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Some(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the settings for these variables, without configuration files.
    fn translated(pairs: &[(&str, &str)], indexes: &Indexes) -> Result<UvSettings, String> {
        let no_files = ("PIP_CONFIG_FILE".to_owned(), "/dev/null".to_owned());
        let pairs = pairs.iter();
        let mut variables: Vec<_> = pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        variables.push(no_files);
        let situation = PipSituation {
            variables: &variables,
            home: Some(Path::new("/home/ana")),
            indexes,
            cache: Path::new("/p/.uv-cache"),
        };
        situation.uv_settings().map_err(|error| error.to_string())
    }

    fn variable(settings: &UvSettings, name: &str) -> Option<String> {
        let mut found = settings
            .variables
            .iter()
            .filter(|(present, _)| *present == name);
        let value = found.next().map(|(_, value)| value.to_string());
        assert!(found.next().is_none(), "{name} is set twice");
        value
    }

    #[test]
    fn every_setting_of_pip_has_a_translation() {
        for (name, value, of_uv, expected) in [
            (
                "PIP_INDEX_URL",
                "https://u:p@h/simple",
                "UV_INDEX_URL",
                "https://u:p@h/simple",
            ),
            (
                "PIP_EXTRA_INDEX_URL",
                "https://a\nhttps://b",
                "UV_EXTRA_INDEX_URL",
                "https://a https://b",
            ),
            (
                "PIP_FIND_LINKS",
                "/one https://h/two",
                "UV_FIND_LINKS",
                "/one,https://h/two",
            ),
            (
                "PIP_TRUSTED_HOST",
                "a b:8443",
                "UV_INSECURE_HOST",
                "a b:8443",
            ),
            ("PIP_CERT", "~/ca.pem", "SSL_CERT_FILE", "/home/ana/ca.pem"),
            ("PIP_CERT", "/usr", "SSL_CERT_DIR", "/usr"),
            ("REQUESTS_CA_BUNDLE", "/ca.pem", "SSL_CERT_FILE", "/ca.pem"),
            ("CURL_CA_BUNDLE", "/ca.pem", "SSL_CERT_FILE", "/ca.pem"),
            ("PIP_CLIENT_CERT", "/me.pem", "SSL_CLIENT_CERT", "/me.pem"),
            (
                "PIP_PROXY",
                "u:p@h:3128",
                "HTTPS_PROXY",
                "http://u:p@h:3128",
            ),
            ("PIP_PROXY", "https://h", "http_proxy", "https://h"),
            ("PIP_TIMEOUT", "1.5", "UV_HTTP_TIMEOUT", "2"),
            ("PIP_DEFAULT_TIMEOUT", "180", "UV_HTTP_TIMEOUT", "180"),
            ("PIP_CACHE_DIR", "/cache", "UV_CACHE_DIR", "/cache/uv"),
            ("PIP_NO_CACHE_DIR", "off", "UV_NO_CACHE", "1"),
            (
                "PIP_KEYRING_PROVIDER",
                "subprocess",
                "UV_KEYRING_PROVIDER",
                "subprocess",
            ),
            ("PIP_QUIET", "2", "UV_CACHE_DIR", "/p/.uv-cache"),
        ] {
            let settings = translated(&[(name, value)], &Indexes::default()).expect(name);
            assert_eq!(
                variable(&settings, of_uv).as_deref(),
                Some(expected),
                "{name}"
            );
            assert!(settings.options.is_empty(), "{name}");
        }
    }

    #[test]
    fn settings_without_a_variable_become_options() {
        for (name, value, options) in [
            ("PIP_PRE", "1", vec!["--prerelease=allow"]),
            ("PIP_PRE", "off", vec![]),
            ("PIP_NO_INDEX", "true", vec!["--no-index"]),
            ("PIP_ONLY_BINARY", ":all:", vec!["--only-binary=:all:"]),
            (
                "PIP_NO_BINARY",
                "a,b",
                vec!["--no-binary=a", "--no-binary=b"],
            ),
            ("PIP_PREFER_BINARY", "0", vec![]),
        ] {
            let settings = translated(&[(name, value)], &Indexes::default()).expect(name);
            assert_eq!(settings.options, options, "{name}");
        }
    }

    #[test]
    fn pip_works_with_the_settings_that_have_no_translation() {
        for (name, value) in [
            ("PIP_PREFER_BINARY", "1"),
            ("PIP_CONSTRAINT", "c.txt"),
            ("PIP_IGNORE_REQUIRES_PYTHON", "1"),
            ("PIP_TIMEOUT", "soon"),
            ("PIP_PRE", "perhaps"),
            ("PIP_SOMETHING_NEW", "1"),
        ] {
            let error = translated(&[(name, value)], &Indexes::default()).err();
            let option = name
                .trim_start_matches("PIP_")
                .to_lowercase()
                .replace('_', "-");
            assert!(
                error.is_some_and(|error| error.ends_with(&option)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_indexes_of_an_installation_win() {
        let url = |text: &str| Some(Zeroizing::new(text.to_owned()));
        let indexes = Indexes {
            url: url("https://own/simple"),
            extra: url("https://more/simple"),
        };
        let general = [
            ("PIP_INDEX_URL", "https://general/simple"),
            ("PIP_EXTRA_INDEX_URL", "https://general/more"),
        ];
        let settings = translated(&general, &indexes).expect("settings");
        let value = |name| variable(&settings, name);
        assert_eq!(value("UV_INDEX_URL").as_deref(), Some("https://own/simple"));
        assert_eq!(
            value("UV_EXTRA_INDEX_URL").as_deref(),
            Some("https://more/simple")
        );
        let strategy = value("UV_INDEX_STRATEGY");
        assert_eq!(strategy.as_deref(), Some("unsafe-best-match"));
        assert!(
            settings.options.is_empty(),
            "options are visible to other users"
        );
        let settings = translated(&general[..1], &Indexes::default()).expect("settings");
        assert_eq!(variable(&settings, "UV_INDEX_STRATEGY"), None);
    }

    #[test]
    fn the_certificates_of_the_environment_reach_uv() {
        let own = [("SSL_CERT_FILE", "/own.pem")];
        let settings = translated(&own, &Indexes::default()).expect("settings");
        assert_eq!(variable(&settings, "UV_SYSTEM_CERTS"), None);
        let both = [
            ("PIP_CERT", "/pip.pem"),
            ("REQUESTS_CA_BUNDLE", "/other.pem"),
        ];
        let settings = translated(&both, &Indexes::default()).expect("settings");
        assert_eq!(
            variable(&settings, "SSL_CERT_FILE").as_deref(),
            Some("/pip.pem")
        );
    }
}
