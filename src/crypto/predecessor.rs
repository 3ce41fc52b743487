//! Secrets of the predecessor: AES-256-GCM under the SHA-256 of its `SECRETS_KEY`, written as
//! `hex(iv):hex(tag):hex(ciphertext)` without associated data.
//!
//! The import opens these values once. The program seals nothing in this format.

use aes_gcm::Aes256Gcm;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::keyring::SecretsKey;
use super::seal::{Plaintext, SealError, cipher, decrypt};

/// The predecessor's key.
pub struct PredecessorKey(Aes256Gcm);

impl PredecessorKey {
    /// Derives the key.
    ///
    /// # Errors
    /// [`SealError::Key`] if the cipher refuses the key.
    pub fn new(key: &SecretsKey) -> Result<Self, SealError> {
        let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(key.0.as_bytes())));
        cipher(&*digest).map(Self)
    }

    /// Opens a value of the predecessor.
    ///
    /// # Errors
    /// [`SealError::Damaged`] if the text has another format or another key sealed it.
    pub fn open(&self, sealed: &str) -> Result<Plaintext, SealError> {
        let parts: Vec<Vec<u8>> = sealed
            .split(':')
            .map(hex::decode)
            .collect::<Result<_, _>>()
            .map_err(|_| SealError::Damaged)?;
        let [iv, tag, ciphertext] = &parts[..] else {
            return Err(SealError::Damaged);
        };
        if tag.len() != 16 {
            return Err(SealError::Damaged);
        }
        let ciphertext_and_tag = [&ciphertext[..], tag].concat();
        decrypt(&self.0, iv, &ciphertext_and_tag, &[]).map(Plaintext)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: &str =
        "000102030405060708090a0b:c85e1392ad5356a43f59a8f276f475a3:cebed4d41da616f5";

    fn key(text: &str) -> PredecessorKey {
        PredecessorKey::new(&SecretsKey::new(text.into())).expect("a key")
    }

    #[test]
    fn a_value_of_the_predecessor_opens() {
        assert_eq!(
            key("secret").open(SEALED).expect("opened").expose(),
            Ok("ghp_test")
        );
    }

    #[test]
    fn every_other_text_is_damaged() {
        assert_eq!(key("secret ").open(SEALED).err(), Some(SealError::Damaged));
        let short_tag = SEALED.replacen("c85e1392ad5356a43f59a8f276f475a3", "c85e1392", 1);
        for malformed in [
            "",
            "::",
            "plain text",
            &SEALED[1..],
            &SEALED[..60],
            &format!("{SEALED}:00"),
            &short_tag,
        ] {
            assert_eq!(
                key("secret").open(malformed).err(),
                Some(SealError::Damaged),
                "{malformed}"
            );
        }
    }
}
