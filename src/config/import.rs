//! Where the data of an original is that is to be taken over.

use super::env::{BadConfig, Env, Variable};
use super::services;
use super::services::Mongo;
use crate::crypto::seal::SecretsKey;

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

pub const VARIABLES: &[&Variable] = &[&IMPORT_MONGO_URL, &IMPORT_SECRETS_KEY];

/// An original's `.env` is enough.
#[derive(Debug)]
pub struct ImportConfig {
    /// `secrets` is the name of its collection of secrets, as it is.
    pub mongo: Mongo,
    pub key: SecretsKey,
}

impl ImportConfig {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let mongo = services::mongo(env, &IMPORT_MONGO_URL)?.ok_or_else(|| {
            BadConfig::new(
                IMPORT_MONGO_URL.name,
                "is missing: the MongoDB that the original works with",
            )
        })?;
        let key = env
            .text(&IMPORT_SECRETS_KEY)
            .or_else(|| env.text(&super::keys::SECRETS_KEY));
        let key = key.map(SecretsKey::new).ok_or_else(|| {
            BadConfig::new(
                IMPORT_SECRETS_KEY.name,
                "is missing: the SECRETS_KEY that the original works with",
            )
        })?;
        Ok(Self { mongo, key })
    }
}
