//! NATS and MongoDB, which many processes share. A single process needs neither.

use std::path::PathBuf;

use super::env::{BadConfig, Env, Variable};
use super::roles::Roles;

const NATS_URL: Variable = Variable {
    name: "NATS_URL",
    default: "",
    about: "NATS servers, comma-separated, such as nats://user:password@nats:4222 or tls://nats:4222. Needs MongoDB too.",
};
const NATS_CREDS: Variable = Variable {
    name: "NATS_CREDS",
    default: "",
    about: "A .creds file for NATS, from nsc or an operator.",
};
const NATS_CA: Variable = Variable {
    name: "NATS_CA",
    default: "",
    about: "A PEM file of certificates that tls:// trusts instead of the system's.",
};
const MONGO_URL: Variable = Variable {
    name: "MONGO_URL",
    default: "",
    about: "MongoDB as mongodb:// or mongodb+srv:// with all options. Replaces MONGO_HOST, MONGO_USER, MONGO_PASS and MONGO_REPLICASET.",
};
const MONGO_HOST: Variable = Variable {
    name: "MONGO_HOST",
    default: "",
    about: "The host of MongoDB as host:port, or several hosts, comma-separated.",
};
const MONGO_USER: Variable = Variable {
    name: "MONGO_USER",
    default: "",
    about: "The user for MONGO_HOST. The user is looked up in the database admin.",
};
const MONGO_PASS: Variable = Variable {
    name: "MONGO_PASS",
    default: "",
    about: "The password of MONGO_USER.",
};
const MONGO_DBNAME: Variable = Variable {
    name: "MONGO_DBNAME",
    default: "mcp",
    about: "The database, if MONGO_URL names none.",
};
const MONGO_REPLICASET: Variable = Variable {
    name: "MONGO_REPLICASET",
    default: "",
    about: "The replica set of MONGO_HOST.",
};
const SECRETS_DBNAME: Variable = Variable {
    name: "SECRETS_DBNAME",
    default: "secrets",
    about: "The collection of sealed values is mcpapi_ plus this name.",
};

pub(super) const VARIABLES: &[&Variable] = &[
    &NATS_URL,
    &NATS_CREDS,
    &NATS_CA,
    &MONGO_URL,
    &MONGO_HOST,
    &MONGO_USER,
    &MONGO_PASS,
    &MONGO_DBNAME,
    &MONGO_REPLICASET,
    &SECRETS_DBNAME,
];

/// Without a service, the program uses its embedded bus or store.
#[derive(Debug, Clone)]
pub struct Services {
    pub nats: Option<Nats>,
    pub mongo: Option<Mongo>,
}

#[derive(Clone)]
pub struct Nats {
    pub urls: Vec<String>,
    pub creds: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

#[derive(Clone)]
pub struct Mongo {
    pub url: String,
    /// The database, if the URL names none.
    pub database: String,
    pub secrets: String,
}

// A URL may contain a password.
impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls: Vec<_> = self.urls.iter().map(|url| without_login(url)).collect();
        f.debug_struct("Nats")
            .field("urls", &urls)
            .field("creds", &self.creds)
            .field("ca", &self.ca)
            .finish()
    }
}

impl std::fmt::Debug for Mongo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mongo")
            .field("url", &without_login(&self.url))
            .field("database", &self.database)
            .field("secrets", &self.secrets)
            .finish()
    }
}

/// Returns a URL without user info. Everything before the last `@` may be a password, because it may not be escaped.
fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        _ => url.to_owned(),
    }
}

impl Services {
    pub fn read(env: &Env, roles: &Roles) -> Result<Self, BadConfig> {
        let services = Self {
            nats: nats(env)?,
            mongo: mongo(env, &MONGO_URL)?,
        };
        if services.nats.is_some() && services.mongo.is_none() {
            let why = "needs MongoDB; set MONGO_URL too, or remove NATS_URL to run one process";
            return Err(BadConfig::new(NATS_URL.name, why));
        }
        if services.nats.is_none() && !roles.are_all() {
            let why = "name only some roles or pools, and this process cannot reach other processes; set NATS_URL and MONGO_URL, or remove ROLES and POOLS";
            return Err(BadConfig::new("ROLES and POOLS", why));
        }
        if services.mongo.is_some() && !env.has("SECRETS_KEY") {
            let why = "is missing: processes that share MongoDB need the same key; create a key with openssl rand -hex 32";
            return Err(BadConfig::new("SECRETS_KEY", why));
        }
        Ok(services)
    }
}

fn nats(env: &Env) -> Result<Option<Nats>, BadConfig> {
    let Some(text) = env.text(&NATS_URL) else {
        return Ok(None);
    };
    let urls: Vec<_> = text
        .split(',')
        .map(|url| url.trim().to_owned())
        .filter(|url| !url.is_empty())
        .collect();
    let known = |url: &String| url.starts_with("nats://") || url.starts_with("tls://");
    if urls.is_empty() || !urls.iter().all(known) {
        return Err(BadConfig::new(
            NATS_URL.name,
            "must be URLs such as nats://127.0.0.1:4222 or tls://nats:4222",
        ));
    }
    Ok(Some(Nats {
        urls,
        creds: file(env, &NATS_CREDS)?,
        ca: file(env, &NATS_CA)?,
    }))
}

fn file(env: &Env, variable: &Variable) -> Result<Option<PathBuf>, BadConfig> {
    let Some(path) = env.text(variable).map(PathBuf::from) else {
        return Ok(None);
    };
    match std::fs::File::open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err(BadConfig::new(
            variable.name,
            format!("cannot be read: {error}"),
        )),
    }
}

/// Returns MongoDB by a variable, or by the other variables without it.
pub(super) fn mongo(env: &Env, first: &Variable) -> Result<Option<Mongo>, BadConfig> {
    let named = [first, &MONGO_URL]
        .into_iter()
        .find_map(|variable| Some((variable, env.text(variable)?)));
    let (variable, url) = match (named, env.text(&MONGO_HOST)) {
        (Some(named), _) => named,
        (None, Some(hosts)) => (&MONGO_HOST, url_of_parts(env, &hosts)?),
        (None, None) => {
            let without = [&MONGO_USER, &MONGO_PASS, &MONGO_REPLICASET]
                .into_iter()
                .find(|v| env.has(v.name));
            return match without {
                Some(variable) => Err(BadConfig::new(
                    variable.name,
                    "is set without MONGO_HOST; set that or MONGO_URL",
                )),
                None => Ok(None),
            };
        }
    };
    if !url.starts_with("mongodb://") && !url.starts_with("mongodb+srv://") {
        return Err(BadConfig::new(
            variable.name,
            "must begin with mongodb:// or mongodb+srv://",
        ));
    }
    let name = |variable| {
        let name: String = env.parse(variable, "a name")?;
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            && name.len() <= 38;
        let why = "must be 1 to 38 letters, digits, '_' or '-'";
        if plain {
            Ok(name)
        } else {
            Err(BadConfig::new(variable.name, why))
        }
    };
    Ok(Some(Mongo {
        url,
        database: name(&MONGO_DBNAME)?,
        secrets: name(&SECRETS_DBNAME)?,
    }))
}

/// Returns the URL for MONGO_HOST, MONGO_USER, MONGO_PASS and MONGO_REPLICASET.
fn url_of_parts(env: &Env, hosts: &str) -> Result<String, BadConfig> {
    let escape = |text: &str| {
        let byte = |b: u8| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                (b as char).to_string()
            }
            _ => format!("%{b:02X}"),
        };
        text.bytes().map(byte).collect::<String>()
    };
    let login = match (env.text(&MONGO_USER), env.text(&MONGO_PASS)) {
        (Some(user), Some(password)) => format!("{}:{}@", escape(&user), escape(&password)),
        (None, None) => String::new(),
        (Some(_), None) => {
            return Err(BadConfig::new(MONGO_PASS.name, "is missing for MONGO_USER"));
        }
        (None, Some(_)) => {
            return Err(BadConfig::new(MONGO_USER.name, "is missing for MONGO_PASS"));
        }
    };
    let mut options = Vec::new();
    if let Some(set) = env.text(&MONGO_REPLICASET) {
        options.push(format!("replicaSet={}", escape(&set)));
    }
    if !login.is_empty() {
        // MongoDB stores its users in the database admin.
        options.push("authSource=admin".to_owned());
    }
    let options = if options.is_empty() {
        String::new()
    } else {
        format!("?{}", options.join("&"))
    };
    Ok(format!("mongodb://{login}{}/{options}", hosts.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Services, BadConfig> {
        let env = Env::from_pairs(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        Services::read(&env, &Roles::read(&env)?)
    }

    #[test]
    fn the_single_variables_make_a_url() {
        let services = read(&[
            ("MONGO_HOST", "a:27017,b"),
            ("MONGO_USER", "me"),
            ("MONGO_PASS", "p@ss/word"),
            ("MONGO_REPLICASET", "rs0"),
            ("SECRETS_KEY", "k"),
        ]);
        let mongo = services.expect("a configuration").mongo.expect("MongoDB");
        assert_eq!(
            mongo.url,
            "mongodb://me:p%40ss%2Fword@a:27017,b/?replicaSet=rs0&authSource=admin"
        );
        assert_eq!(
            (mongo.database.as_str(), mongo.secrets.as_str()),
            ("mcp", "secrets")
        );
    }

    #[test]
    fn an_unusable_combination_is_refused_by_name() {
        let mongo = ("MONGO_URL", "mongodb://h");
        for (pairs, name) in [
            (vec![("NATS_URL", "nats://h")], "NATS_URL"),
            (vec![("NATS_URL", "http://h"), mongo], "NATS_URL"),
            (vec![mongo], "SECRETS_KEY"),
            (vec![("ROLES", "api")], "ROLES and POOLS"),
            (vec![("POOLS", "tokens")], "ROLES and POOLS"),
            (vec![("ROLES", "boss")], "ROLES"),
            (vec![("MONGO_USER", "u")], "MONGO_USER"),
            (vec![("MONGO_HOST", "h"), ("MONGO_USER", "u")], "MONGO_PASS"),
            (
                vec![("MONGO_URL", "http://h"), ("SECRETS_KEY", "k")],
                "MONGO_URL",
            ),
            (
                vec![mongo, ("SECRETS_KEY", "k"), ("MONGO_DBNAME", "a/b")],
                "MONGO_DBNAME",
            ),
            (
                vec![
                    mongo,
                    ("SECRETS_KEY", "k"),
                    ("NATS_URL", "nats://h"),
                    ("NATS_CREDS", "/nowhere"),
                ],
                "NATS_CREDS",
            ),
        ] {
            assert_eq!(read(&pairs).expect_err("refused").name, name, "{pairs:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let pairs = [
            ("MONGO_URL", "mongodb://u:hush@h"),
            ("NATS_URL", "nats://u:hush@h"),
            ("SECRETS_KEY", "hush"),
        ];
        assert!(!format!("{:?}", read(&pairs).expect("a configuration")).contains("hush"));
    }
}
