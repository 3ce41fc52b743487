//! The current key of the deployment and its earlier keys.

use super::env::{BadConfig, Env, Variable};
use crate::crypto::keyring::SecretsKey;

pub(super) const SECRETS_KEY: Variable = Variable {
    name: "SECRETS_KEY",
    default: "",
    about: "The deployment key, which encrypts all secrets: 32 bytes in hex or base64, or a passphrase of at least 12 characters. Without it, the program creates DATA_DIR/secrets.key. Required with MongoDB.",
};
const SECRETS_KEYS_OLD: Variable = Variable {
    name: "SECRETS_KEYS_OLD",
    default: "",
    about: "Earlier keys that may still decrypt secrets, comma-separated. For a passphrase with a comma, write a JSON list: [\"one, two\"].",
};

pub(super) const VARIABLES: &[&Variable] = &[&SECRETS_KEY, &SECRETS_KEYS_OLD];

/// The fewest characters of a passphrase for a new deployment.
const MIN_PASSPHRASE: usize = 12;

#[derive(Debug)]
pub struct Keys {
    pub current: Option<SecretsKey>,
    /// Whether `SECRETS_KEY` is a passphrase that is short enough to guess. Only a deployment that has data already may
    /// use such a key.
    pub is_weak: bool,
    pub old: Vec<SecretsKey>,
}

impl Keys {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let current = env.text(&SECRETS_KEY);
        let old = earlier_keys(&env.text(&SECRETS_KEYS_OLD).unwrap_or_default());
        Ok(Self {
            is_weak: current
                .as_ref()
                .is_some_and(|key| key.chars().count() < MIN_PASSPHRASE),
            current: current.map(SecretsKey::new),
            old: old.into_iter().map(SecretsKey::new).collect(),
        })
    }
}

/// Splits a list of keys: a JSON list of texts, or texts with commas between them.
fn earlier_keys(text: &str) -> Vec<String> {
    let keys = serde_json::from_str::<Vec<String>>(text)
        .unwrap_or_else(|_| text.split(',').map(|key| key.trim().to_owned()).collect());
    keys.into_iter().filter(|key| !key.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_with_a_comma_can_be_an_earlier_key() {
        assert_eq!(earlier_keys(""), [""; 0]);
        assert_eq!(earlier_keys("one, two,"), ["one", "two"]);
        assert_eq!(
            earlier_keys(r#"["one, two", "three"]"#),
            ["one, two", "three"]
        );
        assert_eq!(earlier_keys("[one, two]"), ["[one", "two]"]);
    }

    #[test]
    fn a_short_passphrase_is_weak() {
        let is_weak = |key: &str| {
            let env = Env::from_pairs([("SECRETS_KEY".to_owned(), key.to_owned())]);
            Keys::read(&env).expect("keys").is_weak
        };
        assert!(is_weak("a") && is_weak("eleven char"));
        assert!(!is_weak("twelve chars") && !is_weak(&"ab".repeat(32)) && !is_weak(""));
    }
}
