//! What the original has sealed: AES-256-GCM under SHA-256 of its SECRETS_KEY, as `hex(iv):hex(tag):hex(ciphertext)`.
//!
//! Opened once, when it is taken over; nothing is sealed like that.

use aes_gcm::Aes256Gcm;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::seal::{Plaintext, SealError, SecretsKey, cipher, decrypt};

pub struct PredecessorKey(Aes256Gcm);

impl PredecessorKey {
    pub fn new(key: &SecretsKey) -> Result<Self, SealError> {
        let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(key.0.as_bytes())));
        cipher(&*digest).map(Self)
    }

    pub fn open(&self, sealed: &str) -> Result<Plaintext, SealError> {
        let mut parts = sealed
            .split(':')
            .map(|part| hex::decode(part).map_err(|_| SealError::Damaged));
        let mut part = || parts.next().unwrap_or(Err(SealError::Damaged));
        let (iv, tag, text) = (part()?, part()?, part()?);
        if parts.next().is_some() || tag.len() != 16 {
            return Err(SealError::Damaged);
        }
        decrypt(&self.0, &iv, &[text, tag].concat(), &[]).map(Plaintext)
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
    fn the_originals_own_value_opens() {
        assert_eq!(
            key("secret").open(SEALED).expect("opened").expose(),
            Ok("ghp_test")
        );
    }

    #[test]
    fn nothing_else_does() {
        assert_eq!(key("secret ").open(SEALED).err(), Some(SealError::Damaged));
        let short_tag = SEALED.replacen("c85e1392ad5356a43f59a8f276f475a3", "c85e1392", 1);
        for wrong in [
            "",
            "::",
            "plain text",
            &SEALED[1..],
            &SEALED[..60],
            &format!("{SEALED}:00"),
            &short_tag,
        ] {
            assert_eq!(
                key("secret").open(wrong).err(),
                Some(SealError::Damaged),
                "{wrong}"
            );
        }
    }
}
