//! `example.env` and the variables that the program reads.

use std::collections::BTreeSet;
use std::fs;

use mcp_api::config::{ClientConfig, Config, Env, ImportConfig, variables};

use super::{read, root};

type Pairs = &'static [(&'static str, &'static str)];

const ISSUER: Pairs = &[
    ("OIDC_ISSUER", "https://login.example.com"),
    ("PUBLIC_URL", "https://mcp.example.com"),
];

const CLIENT: Pairs = &[
    ("OIDC_ISSUER", "https://login.example.com"),
    ("PUBLIC_URL", "https://mcp.example.com"),
    ("OIDC_CLIENT_ID", "pages"),
];

/// Another value of every variable, and the variables that make the difference visible.
const SERVICES: Pairs = &[
    ("NATS_URL", "nats://h"),
    ("MONGO_URL", "mongodb://h"),
    ("SECRETS_KEY", "k"),
];

const OTHER_VALUES: &[(&str, &str, Pairs)] = &[
    ("HOST", "127.0.0.2", &[]),
    ("PORT", "9999", &[]),
    ("PUBLIC_URL", "https://mcp.example.com", &[]),
    ("DATA_DIR", "/elsewhere", &[]),
    ("ROLES", "api", SERVICES),
    ("POOLS", "packages,tokens", SERVICES),
    ("NATS_URL", "nats://elsewhere", SERVICES),
    ("NATS_CREDS", "/dev/null", SERVICES),
    ("NATS_CA", "/dev/null", SERVICES),
    ("MONGO_URL", "mongodb://elsewhere", SERVICES),
    ("MONGO_HOST", "elsewhere", &[("SECRETS_KEY", "k")]),
    (
        "MONGO_USER",
        "u",
        &[
            ("SECRETS_KEY", "k"),
            ("MONGO_HOST", "h"),
            ("MONGO_PASS", "p"),
        ],
    ),
    (
        "MONGO_PASS",
        "p",
        &[
            ("SECRETS_KEY", "k"),
            ("MONGO_HOST", "h"),
            ("MONGO_USER", "u"),
        ],
    ),
    ("MONGO_DBNAME", "other", SERVICES),
    (
        "MONGO_REPLICASET",
        "rs0",
        &[("SECRETS_KEY", "k"), ("MONGO_HOST", "h")],
    ),
    ("SECRETS_DBNAME", "other", SERVICES),
    ("ADMIN_TOKEN", "0123456789abcdef", &[]),
    ("ALLOW_UNAUTHENTICATED", "true", &[("HOST", "0.0.0.0")]),
    ("ALLOWED_HOSTS", "mcp.example.com", &[]),
    ("USER_TOKEN_MAX_LIFE", "30d", &[]),
    (
        "OIDC_ISSUER",
        "https://login.example.com",
        &[("PUBLIC_URL", "https://mcp.example.com")],
    ),
    ("OIDC_AUDIENCE", "mcp-api", ISSUER),
    ("OIDC_USER_CLAIM", "email", ISSUER),
    ("OIDC_GROUPS_CLAIM", "roles", ISSUER),
    ("OIDC_ADMIN_GROUP", "admins", ISSUER),
    ("OIDC_CLIENT_ID", "pages", ISSUER),
    ("OIDC_CLIENT_SECRET", "a-secret", CLIENT),
    ("SECRETS_KEY", "a passphrase", &[]),
    ("SECRETS_KEYS_OLD", "one, another", &[]),
    ("PAYLOAD_LIMIT", "7mb", &[]),
    ("RESULT_LIMIT", "7mb", &[]),
    ("MAX_CALLS", "7", &[]),
    ("MAX_CALLS_PER_SERVER", "7", &[]),
    ("MAX_CALLS_PER_USER", "7", &[]),
    ("MAX_CONNECTIONS", "77", &[]),
    ("MAX_USER_PROCESSES", "7", &[]),
    ("MAX_USER_CONNECTIONS", "7", &[]),
    ("USER_PROCESS_IDLE", "7s", &[]),
    ("MAX_WAITING_JOBS", "7", &[]),
    ("MCP_NAME_LIMIT", "77", &[]),
    ("MCP_MAX_STREAMS", "7", &[]),
    ("MCP_MAX_STREAMS_PER_USER", "7", &[]),
    ("JOB_RESULT_TTL", "7s", &[]),
    ("LEASE_TTL", "7s", &[]),
    ("LOG_RETENTION", "7d", &[]),
    ("DRAIN_TIMEOUT", "7s", &[]),
    (
        "GOOGLE_OAUTH_CREDENTIALS",
        r#"{"web":{"client_id":"i"}}"#,
        &[],
    ),
    ("PACKAGES_DIR", "/elsewhere", &[]),
    ("PYTHON_BIN", "/usr/bin/python3", &[]),
    ("UV_BIN", "/usr/bin/uv", &[]),
    ("PYTHON_VENV_DIR", "/elsewhere", &[]),
    ("PIP_INDEX_URL", "https://pypi.example.com/simple", &[]),
    (
        "PIP_EXTRA_INDEX_URL",
        "https://pypi.example.com/simple",
        &[],
    ),
    ("INSTALL_ON_START", "a|b", &[]),
    ("LOG_FORMAT", "pretty", &[]),
    ("RUST_LOG", "trace", &[]),
    (
        "IMPORT_MONGO_URL",
        "mongodb://h/db",
        &[("SECRETS_KEY", "k")],
    ),
    (
        "IMPORT_SECRETS_KEY",
        "k",
        &[("IMPORT_MONGO_URL", "mongodb://h/db")],
    ),
    ("MCP_API_URL", "http://127.0.0.1:9999", &[]),
    ("MCP_API_TOKEN", "mcpu_other", &[]),
];

#[test]
fn every_variable_of_example_env_is_read() {
    let named: BTreeSet<String> = read("example.env")
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once('='))
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let page = read("docs/operations.md");
    for name in &named {
        assert!(
            page.contains(&format!("| `{name}` |")),
            "docs/operations.md does not list {name}"
        );
    }
    assert_eq!(
        named,
        OTHER_VALUES
            .iter()
            .map(|(name, ..)| (*name).to_owned())
            .collect(),
        "give it another value here"
    );
    for (name, other, needs) in OTHER_VALUES {
        let config = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let env = Env::from_pairs(pairs);
            format!(
                "{:?} {:?} {:?}",
                Config::read(&env),
                ClientConfig::read(&env),
                ImportConfig::read(&env)
            )
        };
        let with = [*needs, &[(name, other)]].concat();
        assert_ne!(config(needs), config(&with), "{name} is not read");
    }
}

#[test]
fn example_env_contains_every_default() {
    let defaults = format!(
        "{:?}",
        Config::read(&Env::default()).expect("a configuration")
    );
    let of_a_variable = |line: &&str| {
        variables()
            .iter()
            .any(|v| line.starts_with(&format!("{}=", v.name)))
    };
    let example = read("example.env");
    let uncommented: Vec<_> = example
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(of_a_variable)
        .collect();
    assert_eq!(uncommented.len(), variables().len());
    let written =
        Config::read(&Env::from_text(uncommented.join("\n").as_bytes()).expect("a .env file"));
    assert_eq!(format!("{:?}", written.expect("a configuration")), defaults);
}

#[test]
fn every_variable_that_is_read_is_in_example_env() {
    let example = read("example.env");
    let mut found = 0;
    for entry in fs::read_dir(root().join("src/config")).expect("a folder") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a source");
        // `name: "NAME"` of a `Variable`, written in one line or in several.
        for name in text
            .split("name: \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            found += 1;
            assert!(
                example.contains(&format!("\n# {name}=")),
                "{name} is not in VARIABLES of its file"
            );
        }
    }
    assert_eq!(found, variables().len());
}
