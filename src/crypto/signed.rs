//! Signatures and keyed digests with the deployment key (HMAC-SHA-256).

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use bytes::Bytes;
use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use uuid::Uuid;

use super::keyring::WrappingKey;
use super::seal::{SealError, Sealer, length_prefixed};
use crate::core::ids::Digest;
use crate::ports::bus::EntrySigner;

/// The reason why a text cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the content cannot be encoded as JSON")]
    Encode(#[source] serde_json::Error),
    #[error("the signing key cannot be used")]
    Key(#[source] SealError),
}

impl Sealer {
    /// Returns a signature that every process of the deployment can verify.
    ///
    /// A signature for one purpose is not valid for another purpose.
    ///
    /// # Errors
    /// [`SealError::Key`] if the keyring is empty.
    pub fn sign(&self, purpose: &str, text: &str) -> Result<Vec<u8>, SealError> {
        let key = self.0.current()?;
        let mac = key.mac(purpose, text.as_bytes());
        Ok(mac.finalize().into_bytes().to_vec())
    }

    /// Returns whether one of the keys made this signature. The comparison takes constant time.
    pub fn is_signed(&self, purpose: &str, text: &str, signature: &[u8]) -> bool {
        self.0.keys().iter().any(|key| {
            key.mac(purpose, text.as_bytes())
                .verify_slice(signature)
                .is_ok()
        })
    }

    /// Returns the content and its signature as one text: `<base64url>.<base64url>`.
    ///
    /// # Errors
    /// [`SignError`] if the content cannot be encoded or the key cannot be used.
    pub fn sign_text(&self, purpose: &str, content: &impl Serialize) -> Result<String, SignError> {
        let content = serde_json::to_vec(content).map_err(SignError::Encode)?;
        let text = URL_SAFE.encode(content);
        let signature = self.sign(purpose, &text).map_err(SignError::Key)?;
        Ok(format!("{text}.{}", URL_SAFE.encode(signature)))
    }

    /// Returns the content of a text of [`Sealer::sign_text`], or `None` if this deployment did
    /// not sign that text for this purpose.
    pub fn verify_text<T: DeserializeOwned>(&self, purpose: &str, signed: &str) -> Option<T> {
        let (text, signature) = signed.split_once('.')?;
        let signature = URL_SAFE.decode(signature).ok()?;
        if !self.is_signed(purpose, text, &signature) {
            return None;
        }
        let content = URL_SAFE.decode(text).ok()?;
        serde_json::from_slice(&content).ok()
    }

    /// Returns a keyed digest (128 bits) of these parts.
    ///
    /// Processes with equal `SECRETS_KEY` compute equal digests for equal parts. A reader without the key
    /// cannot derive the parts.
    ///
    /// # Errors
    /// [`SealError::Key`] if the keyring is empty.
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> Result<Digest, SealError> {
        let key = self.0.current()?;
        let mac = key.mac(purpose, &length_prefixed(parts));
        let bytes = mac.finalize().into_bytes();
        Uuid::from_slice(&bytes[..16])
            .map(Digest)
            .map_err(|_| SealError::Key)
    }
}

/// The purpose of the signatures of entries.
const ENTRY: &str = "entry of the log";

impl EntrySigner for Sealer {
    fn sign_entry(&self, text: &str) -> Option<Bytes> {
        self.sign(ENTRY, text).ok().map(Bytes::from)
    }

    fn is_signed_entry(&self, text: &str, signature: &[u8]) -> bool {
        self.is_signed(ENTRY, text, signature)
    }
}

impl WrappingKey {
    fn mac(&self, purpose: &str, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new((&*self.signing).into());
        mac.update(&length_prefixed(&[purpose.as_bytes(), bytes]));
        mac
    }
}

#[cfg(test)]
mod tests {
    use crate::crypto::keyring::{SecretsKey, new_record, open_keyring};

    fn key(text: &str) -> SecretsKey {
        SecretsKey::new(text.into())
    }

    #[test]
    fn a_signature_is_valid_for_one_text_and_one_purpose() {
        let record = new_record(&key("first")).expect("record");
        let (sealer, _) = open_keyring(&record, &key("first"), &[]).expect("keyring");
        let signature = sealer.sign("link", "ana").expect("signed");
        assert!(sealer.is_signed("link", "ana", &signature));
        assert!(!sealer.is_signed("link", "ben", &signature));
        assert!(!sealer.is_signed("cookie", "ana", &signature));
        assert!(!sealer.is_signed("link", "ana", &signature[..31]));
        assert!(!sealer.is_signed("link", "ana", b""));
    }

    #[test]
    fn a_new_key_accepts_signatures_of_the_old_key() {
        let record = new_record(&key("first")).expect("record");
        let (sealer, _) = open_keyring(&record, &key("first"), &[]).expect("keyring");
        let signature = sealer.sign("link", "ana").expect("signed");
        let (rotated, _) = open_keyring(&record, &key("second"), &[key("first")]).expect("keyring");
        assert!(rotated.is_signed("link", "ana", &signature));
    }

    #[test]
    fn a_signed_text_returns_its_content_for_its_purpose_only() {
        let record = new_record(&key("first")).expect("record");
        let (sealer, _) = open_keyring(&record, &key("first"), &[]).expect("keyring");
        let signed = sealer.sign_text("link", &("ana", 7)).expect("signed");
        let content = Some(("ana".to_owned(), 7));
        assert_eq!(sealer.verify_text("link", &signed), content);
        assert_eq!(sealer.verify_text::<(String, u8)>("cookie", &signed), None);
        let changed = signed.replacen('W', "X", 1);
        assert_eq!(sealer.verify_text::<(String, u8)>("link", &changed), None);
        for malformed in ["", ".", "a.b", signed.trim_end_matches(|c| c != '.')] {
            assert_eq!(sealer.verify_text::<(String, u8)>("link", malformed), None);
        }
    }
}
