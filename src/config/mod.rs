//! Reads the variables of the program: one concern per file. No other module reads the environment.
//!
//! Each variable has one definition with its default and its description. `example.env` is generated from them.

mod access;
mod client;
pub mod data_dir;
mod env;
mod google;
mod import;
mod keys;
mod limits;
mod listen;
mod log;
mod log_retention;
mod mcp_endpoints;
mod oidc;
mod packages;
mod roles;
mod services;

pub use self::access::Access;
pub use self::client::ClientConfig;
pub use self::data_dir::DataDir;
pub use self::env::{BadConfig, Env, Variable};
pub use self::google::Google;
pub use self::import::ImportConfig;
pub use self::keys::Keys;
pub use self::limits::Limits;
pub use self::listen::{Listen, PublicUrl};
pub use self::log::{LogConfig, LogFormat};
pub use self::log_retention::{LogRetention, parse_retention};
pub use self::mcp_endpoints::McpEndpoints;
pub use self::oidc::{Audience, Oidc, OidcClient, SIGNIN_CALLBACK_PATH, is_protected};
pub use self::packages::{InstallOnStart, Packages, UvChoice};
pub use self::roles::{Pools, Roles};
pub use self::services::{Mongo, Nats, Services};

/// The configuration of the program.
#[derive(Debug)]
pub struct Config {
    pub listen: Listen,
    pub access: Access,
    pub data_dir: DataDir,
    pub roles: Roles,
    pub services: Services,
    pub keys: Keys,
    pub limits: Limits,
    pub mcp_endpoints: McpEndpoints,
    pub google: Google,
    pub packages: Packages,
    pub log: LogConfig,
    pub log_retention: LogRetention,
}

impl Config {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let listen = Listen::read(env)?;
        let roles = Roles::read(env)?;
        let access = Access::read(env, &listen)?;
        let data_dir = DataDir::read(env)?;
        Ok(Self {
            access,
            packages: Packages::read(env, &data_dir)?,
            log_retention: LogRetention::read(env, &data_dir)?,
            data_dir,
            services: Services::read(env, &roles)?,
            roles,
            keys: Keys::read(env)?,
            limits: Limits::read(env)?,
            mcp_endpoints: McpEndpoints::read(env)?,
            google: Google::read(env)?,
            log: LogConfig::read(env)?,
            listen,
        })
    }
}

/// Returns all variables in the order of `example.env`.
pub fn variables() -> Vec<&'static Variable> {
    let all: [&[&Variable]; 15] = [
        listen::VARIABLES,
        data_dir::VARIABLES,
        roles::VARIABLES,
        services::VARIABLES,
        access::VARIABLES,
        oidc::VARIABLES,
        keys::VARIABLES,
        limits::VARIABLES,
        mcp_endpoints::VARIABLES,
        log_retention::VARIABLES,
        google::VARIABLES,
        packages::VARIABLES,
        log::VARIABLES,
        client::VARIABLES,
        import::VARIABLES,
    ];
    all.concat()
}

/// Returns the text of `example.env`.
pub fn example_env() -> String {
    let mut text = String::from(
        "# Copy this file to .env in the folder in which the program starts. The environment wins. Put a value with $, # or\n# spaces in 'single quotes'.\n",
    );
    for Variable {
        name,
        default,
        about,
    } in variables()
    {
        text.push_str(&format!("\n# {about}\n# {name}={default}\n"));
    }
    text.push_str(
        "\n# Only docker-compose.yml reads these variables. The program gets two of them in NATS_URL and MONGO_PASS.\n",
    );
    for (name, about) in OF_COMPOSE {
        text.push_str(&format!("\n# {about}\n#   {name}\n"));
    }
    text
}

/// The variables that only `docker-compose.yml` reads.
pub const OF_COMPOSE: [(&str, &str); 3] = [
    (
        "NATS_PASSWORD",
        "The password of NATS, of letters and digits: openssl rand -hex 24",
    ),
    (
        "MONGO_PASSWORD",
        "The password of MongoDB's user mcp, with which the program connects.",
    ),
    (
        "MONGO_ROOT_PASSWORD",
        "The password of MongoDB's user root. The program does not use it.",
    ),
];
