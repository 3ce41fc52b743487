//! The program's variables: one concern per file, and the only reader of the environment.
//!
//! Every variable is written once, with its default and one sentence; `example.env` is made from these.

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
pub use self::packages::{InstallOnStart, Packages};
pub use self::roles::{Pools, Roles};
pub use self::services::{Mongo, Nats, Services};

/// Everything the program is told from outside.
#[derive(Debug)]
pub struct Config {
    pub listen: Listen,
    pub access: Access,
    pub place: DataDir,
    pub roles: Roles,
    pub services: Services,
    pub keys: Keys,
    pub limits: Limits,
    pub google: Google,
    pub packages: Packages,
    pub log: LogConfig,
}

impl Config {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let listen = Listen::read(env)?;
        let roles = Roles::read(env)?;
        let access = Access::read(env, &listen)?;
        let place = DataDir::read(env)?;
        Ok(Self {
            access,
            packages: Packages::read(env, &place)?,
            place,
            services: Services::read(env, &roles)?,
            roles,
            keys: Keys::read(env)?,
            limits: Limits::read(env)?,
            google: Google::read(env)?,
            log: LogConfig::read(env)?,
            listen,
        })
    }
}

/// Every variable there is, in the order of `example.env`.
pub fn variables() -> Vec<&'static Variable> {
    let all: [&[&Variable]; 12] = [
        listen::VARIABLES,
        data_dir::VARIABLES,
        roles::VARIABLES,
        services::VARIABLES,
        access::VARIABLES,
        keys::VARIABLES,
        limits::VARIABLES,
        google::VARIABLES,
        packages::VARIABLES,
        log::VARIABLES,
        client::VARIABLES,
        import::VARIABLES,
    ];
    all.concat()
}

/// The text of `example.env`: every variable with its default and one sentence.
pub fn example_env() -> String {
    let mut text = String::from(
        "# Copy this file to .env in the folder the program is started in. The environment wins over it. Put a value\n# that holds $, # or blanks in 'single quotes'.\n",
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
        "\n# For docker-compose.yml alone: the program knows these in NATS_URL and MONGO_PASS.\n",
    );
    for (name, about) in OF_COMPOSE {
        text.push_str(&format!("\n# {about}\n#   {name}\n"));
    }
    text
}

/// What `docker-compose.yml` reads beside the program's own variables.
pub const OF_COMPOSE: [(&str, &str); 2] = [
    (
        "NATS_PASSWORD",
        "The password of NATS: letters and digits, such as openssl rand -hex 24 gives.",
    ),
    ("MONGO_PASSWORD", "The password of MongoDB's user mcp."),
];
