//! The MongoDB and the key of the predecessor, for `mcp-api import`.

use super::env::{BadConfig, Env, Variable};
use super::services;
use super::services::Mongo;
use crate::crypto::keyring::SecretsKey;

const IMPORT_MONGO_URL: Variable = Variable {
    name: "IMPORT_MONGO_URL",
    default: "",
    about: "The MongoDB that mcp-api import reads, with its database. Without it, MONGO_URL or MONGO_HOST.",
};
const IMPORT_SECRETS_KEY: Variable = Variable {
    name: "IMPORT_SECRETS_KEY",
    default: "",
    about: "The SECRETS_KEY of the predecessor whose data mcp-api import reads. Without it, SECRETS_KEY.",
};

pub(super) const VARIABLES: &[&Variable] = &[&IMPORT_MONGO_URL, &IMPORT_SECRETS_KEY];

/// The `.env` of the predecessor is a complete configuration.
#[derive(Debug)]
pub struct ImportConfig {
    /// `secrets` is the full name of the predecessor's collection of secrets.
    pub mongo: Mongo,
    pub key: SecretsKey,
}

impl ImportConfig {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let mongo = services::mongo(env, &IMPORT_MONGO_URL)?.ok_or_else(|| {
            BadConfig::new(
                IMPORT_MONGO_URL.name,
                "is missing; set it to the MongoDB of the predecessor",
            )
        })?;
        let key = env
            .text(&IMPORT_SECRETS_KEY)
            .or_else(|| env.text(&super::keys::SECRETS_KEY));
        let key = key.map(SecretsKey::new).ok_or_else(|| {
            BadConfig::new(
                IMPORT_SECRETS_KEY.name,
                "is missing; set it to the SECRETS_KEY of the predecessor",
            )
        })?;
        Ok(Self { mongo, key })
    }
}
