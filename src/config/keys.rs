//! The deployment's keys.

use super::env::{BadConfig, Env, Variable};
use crate::crypto::seal::SecretsKey;

pub(super) const SECRETS_KEY: Variable = Variable {
    name: "SECRETS_KEY",
    default: "",
    about: "The deployment key, which encrypts all secrets: 32 bytes in hex or base64, or a passphrase. Without it, the program creates DATA_DIR/secrets.key. Required with MongoDB.",
};
const SECRETS_KEYS_OLD: Variable = Variable {
    name: "SECRETS_KEYS_OLD",
    default: "",
    about: "Earlier keys that may still decrypt secrets, comma-separated.",
};

pub const VARIABLES: &[&Variable] = &[&SECRETS_KEY, &SECRETS_KEYS_OLD];

#[derive(Debug)]
pub struct Keys {
    pub current: Option<SecretsKey>,
    pub old: Vec<SecretsKey>,
}

impl Keys {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let old = env.text(&SECRETS_KEYS_OLD).unwrap_or_default();
        let old = old
            .split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .map(|key| SecretsKey::new(key.to_owned()));
        Ok(Self {
            current: env.text(&SECRETS_KEY).map(SecretsKey::new),
            old: old.collect(),
        })
    }
}
