//! The deployment's keys: derivation from `SECRETS_KEY`, the check value, and key rotation.

use std::fmt;
use std::sync::Arc;

use aes_gcm::Aes256Gcm;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::seal::{KEY_ID, Opener, SealError, Sealer, cipher};
use crate::core::ids::ValueId;
use crate::ports::vault::{KeyRecord, Sealed};

/// Bytes of a signing key: one block of SHA-256, which HMAC uses without hashing it.
const SIGNING_KEY: usize = 64;
/// The associated data and the id of the check value.
const CHECK_CONTEXT: &[u8] = b"mcp-api key check";

/// The text of `SECRETS_KEY`, which cannot be printed. Dropping the text wipes it.
pub struct SecretsKey(pub(super) Zeroizing<String>);

impl SecretsKey {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the 32 bytes of a key in hex or base64; every other text is a passphrase.
    fn bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let text = self.0.trim();
        let bytes = match text.len() {
            64 => hex::decode(text).ok(),
            43 | 44 => BASE64_STANDARD.decode(text).ok(),
            _ => None,
        };
        bytes.filter(|bytes| bytes.len() == 32).map(Zeroizing::new)
    }

    /// Derives the wrapping key, the signing key and the key id.
    ///
    /// A passphrase goes through Argon2id with 19 MiB and two passes (the OWASP recommendation),
    /// which takes about 30 ms once per start.
    fn derive(&self, salt: &[u8; 16]) -> Result<WrappingKey, SealError> {
        let mut material = Zeroizing::new([0u8; 32]);
        match self.bytes() {
            Some(bytes) => material.copy_from_slice(&bytes),
            None => argon2::Argon2::default()
                .hash_password_into(self.0.as_bytes(), salt, &mut *material)
                .map_err(|_| SealError::Key)?,
        }
        let hkdf = Hkdf::<Sha256>::new(Some(salt), &*material);
        let expand = |label: &[u8], output: &mut [u8]| {
            hkdf.expand(label, output).map_err(|_| SealError::Key)
        };
        let mut key = Zeroizing::new([0u8; 32]);
        expand(b"mcp-api key-encryption key v1", &mut *key)?;
        let mut signing = Zeroizing::new([0u8; SIGNING_KEY]);
        expand(b"mcp-api signing key v1", &mut *signing)?;
        let mut id = [0u8; KEY_ID];
        expand(b"mcp-api key id v1", &mut id)?;
        Ok(WrappingKey {
            id,
            cipher: cipher(&*key)?,
            signing,
        })
    }
}

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKey(***)")
    }
}

/// One key of the deployment.
pub(super) struct WrappingKey {
    pub(super) id: [u8; KEY_ID],
    pub(super) cipher: Aes256Gcm,
    pub(super) signing: Zeroizing<[u8; SIGNING_KEY]>,
}

/// The keys of the deployment. The first key seals and signs; every key opens.
pub(super) struct Keyring(Vec<WrappingKey>);

impl Keyring {
    /// Returns the key that seals and signs.
    pub(super) fn current(&self) -> Result<&WrappingKey, SealError> {
        self.0.first().ok_or(SealError::Key)
    }

    pub(super) fn keys(&self) -> &[WrappingKey] {
        &self.0
    }

    pub(super) fn find(&self, id: &[u8]) -> Option<&WrappingKey> {
        self.0.iter().find(|key| key.id == id)
    }

    pub(super) fn find_by_hex_id(&self, id: &str) -> Option<&WrappingKey> {
        self.0.iter().find(|key| hex::encode(key.id) == id)
    }
}

/// Returns the record of a new deployment: a random salt and a check value of this key.
///
/// # Errors
/// [`SealError::Random`] or [`SealError::Key`].
pub fn new_record(key: &SecretsKey) -> Result<KeyRecord, SealError> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|_| SealError::Random)?;
    let check = check_value(&key.derive(&salt)?)?;
    Ok(KeyRecord { salt, check })
}

/// Returns the sealer and the opener of a deployment.
///
/// # Errors
/// [`SealError::UnknownKey`] if no key matches the record, because a program with another key
/// would lose every stored secret without a message.
pub fn open_keyring(
    record: &KeyRecord,
    key: &SecretsKey,
    old_keys: &[SecretsKey],
) -> Result<(Sealer, Opener), SealError> {
    let keys = std::iter::once(key)
        .chain(old_keys)
        .map(|key| key.derive(&record.salt))
        .collect::<Result<_, _>>()?;
    let keyring = Arc::new(Keyring(keys));
    let check = Sealed(record.check.clone().into());
    keyring.open(CHECK_CONTEXT, CHECK_CONTEXT, &check)?;
    Ok((Sealer(keyring.clone()), Opener(keyring)))
}

fn check_value(key: &WrappingKey) -> Result<Vec<u8>, SealError> {
    let sealed = key.seal(CHECK_CONTEXT, CHECK_CONTEXT, b"ok")?;
    Ok(sealed.0.to_vec())
}

impl Sealer {
    /// Returns the id of the current key in hex. The id is public: every sealed value holds it.
    pub fn key_id(&self) -> String {
        self.0
            .current()
            .map_or_else(|_| String::new(), |key| hex::encode(key.id))
    }
}

impl Opener {
    /// Returns the wrapping under the current key, or `None` if the value has that wrapping.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] or [`SealError::Damaged`] if the wrapping does not open.
    pub fn rewrap(&self, value: ValueId, wrapping: &[u8]) -> Result<Option<Bytes>, SealError> {
        let current = self.0.current()?;
        if wrapping.get(1..=KEY_ID) == Some(&current.id[..]) {
            return Ok(None);
        }
        let id = value.0.as_bytes();
        let key = self.0.unwrap(id, wrapping)?;
        current.wrap(id, &key).map(|wrapped| Some(wrapped.into()))
    }

    /// Returns the value with a wrapping under the current key.
    ///
    /// # Errors
    /// The errors of [`Opener::rewrap`].
    pub fn rewrap_value(&self, value: ValueId, sealed: Sealed) -> Result<Sealed, SealError> {
        let (wrapping, rest) = sealed.split();
        let renewed = self.rewrap(value, &wrapping)?;
        Ok(renewed.map_or(sealed, |wrapping| Sealed::wrapped(&wrapping, &rest)))
    }

    /// Returns a check value that only the current key opens, or `None` if the record has it.
    ///
    /// # Errors
    /// [`SealError::Random`] or [`SealError::Key`].
    pub fn renewed_check(&self, record: &KeyRecord) -> Result<Option<Vec<u8>>, SealError> {
        let current = self.0.current()?;
        if record.check.get(1..=KEY_ID) == Some(&current.id[..]) {
            return Ok(None);
        }
        check_value(current).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ServerId;
    use crate::core::names::UserName;
    use crate::crypto::context::SecretContext;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn key(digit: char) -> SecretsKey {
        SecretsKey::new(digit.to_string().repeat(64))
    }

    fn passphrase(text: &str) -> SecretsKey {
        SecretsKey::new(text.into())
    }

    #[test]
    fn a_rewrapped_value_opens_with_the_new_key_alone() {
        let record = new_record(&key('a')).expect("record");
        let (old_sealer, old_opener) = open_keyring(&record, &key('a'), &[]).expect("keyring");
        let (sealer, opener) = open_keyring(&record, &key('b'), &[key('a')]).expect("keyring");
        assert_ne!(old_sealer.key_id(), sealer.key_id());

        let user = UserName::default();
        let name = "n".parse().expect("name");
        let value = ValueId(Uuid::max());
        let context = SecretContext {
            server: ServerId(Uuid::nil()),
            user: Some(&user),
            name: &name,
            value,
        };
        let sealed = old_sealer.seal(context, "s3cret").expect("sealed");
        let renewed = opener
            .rewrap_value(value, sealed.clone())
            .expect("rewrapped");
        assert!(renewed.0[Sealed::WRAPPING..] == sealed.0[Sealed::WRAPPING..] && renewed != sealed);
        assert!(
            opener
                .rewrap_value(value, renewed.clone())
                .expect("the same")
                == renewed
        );

        let check = opener
            .renewed_check(&record)
            .expect("a check")
            .expect("a renewed check");
        let renewed_record = KeyRecord { check, ..record };
        assert_eq!(opener.renewed_check(&renewed_record), Ok(None));
        let (_, alone) =
            open_keyring(&renewed_record, &key('b'), &[]).expect("the new key suffices");
        assert_eq!(
            alone.open(context, &renewed).expect("opened").expose(),
            Ok("s3cret")
        );
        assert_eq!(
            open_keyring(&renewed_record, &key('a'), &[]).err(),
            Some(SealError::UnknownKey)
        );
        assert_eq!(
            old_opener.open(context, &renewed).err(),
            Some(SealError::UnknownKey)
        );
    }

    #[test]
    fn a_listed_key_seals_when_its_id_is_named() {
        let record = new_record(&key('a')).expect("record");
        let (sealer, _) = open_keyring(&record, &key('a'), &[key('b')]).expect("keyring");
        let (named, opener) = open_keyring(&record, &key('b'), &[key('a')]).expect("keyring");
        let user = UserName::default();
        let name = "n".parse().expect("name");
        let value = ValueId(Uuid::max());
        let context = SecretContext {
            server: ServerId(Uuid::nil()),
            user: Some(&user),
            name: &name,
            value,
        };
        let keys = ["00".repeat(KEY_ID), named.key_id()];
        let sealed = sealer.seal_with(&keys, context, "s3cret").expect("sealed");
        assert_eq!(
            opener.rewrap(value, &sealed.split().0),
            Ok(None),
            "that key wrapped the value"
        );
        assert_eq!(
            opener.open(context, &sealed).expect("opened").expose(),
            Ok("s3cret")
        );
        assert_eq!(
            sealer.seal_with(&keys[..1], context, "s3cret").err(),
            Some(SealError::UnknownKey)
        );
    }

    #[test]
    fn only_a_wrapping_that_opens_is_rewrapped() {
        let record = new_record(&key('a')).expect("record");
        let (_, opener) = open_keyring(&record, &key('b'), &[key('a')]).expect("keyring");
        let (foreign, _) =
            open_keyring(&new_record(&key('c')).expect("record"), &key('c'), &[]).expect("keyring");
        let user = UserName::default();
        let name = "n".parse().expect("name");
        let value = ValueId(Uuid::max());
        let context = SecretContext {
            server: ServerId(Uuid::nil()),
            user: Some(&user),
            name: &name,
            value,
        };
        let (wrapping, _) = foreign.seal(context, "x").expect("sealed").split();
        assert_eq!(opener.rewrap(value, &wrapping), Err(SealError::UnknownKey));
        for malformed in [&b""[..], b"garbage", &[1; Sealed::WRAPPING - 1]] {
            assert_eq!(opener.rewrap(value, malformed), Err(SealError::Damaged));
        }
    }

    #[test]
    fn an_unknown_key_is_refused_and_a_listed_old_key_is_accepted() {
        let record = new_record(&passphrase("correct horse battery staple")).expect("record");
        assert_eq!(
            open_keyring(&record, &passphrase("wrong"), &[]).err(),
            Some(SealError::UnknownKey)
        );
        assert!(
            open_keyring(
                &record,
                &passphrase("wrong"),
                &[passphrase("correct horse battery staple")]
            )
            .is_ok()
        );
    }

    #[test]
    fn hex_and_base64_of_the_same_bytes_are_the_same_key() {
        let record = new_record(&passphrase(HEX)).expect("record");
        let base64 = BASE64_STANDARD.encode(hex::decode(HEX).expect("hex"));
        assert!(open_keyring(&record, &passphrase(&base64), &[]).is_ok());
        assert!(passphrase("not 32 bytes").bytes().is_none());
    }
}
