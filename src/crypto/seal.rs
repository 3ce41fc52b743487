//! Sealing: AES-256-GCM with a random key for each value. The deployment key wraps that key.
//!
//! Format 1: `1 | key id (8) | wrap nonce (12) | wrapped key (48) | nonce (12) | ciphertext, tag`.
//! The associated data binds a value to its [`SealContext`] and its id. A wrapped key is bound to
//! the id of its value. Sealed bytes that are copied to another place therefore do not open.

use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit, Nonce, Payload};
use aes_gcm::{Aes256Gcm, Key};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::context::SealContext;
use super::keyring::{Keyring, WrappingKey};
use crate::ports::vault::Sealed;

/// The number of the format; the first byte of every wrapping.
pub(super) const FORMAT: u8 = 1;
/// Bytes of a key id.
pub(super) const KEY_ID: usize = 8;
/// Bytes of a nonce of AES-GCM.
const NONCE: usize = 12;
/// Bytes of a wrapped key: the key and the tag of AES-GCM.
const WRAPPED: usize = 32 + 16;
/// Bytes before the ciphertext.
const HEADER: usize = 1 + KEY_ID + NONCE + WRAPPED + NONCE;
const _: () = assert!(HEADER == Sealed::WRAPPING + NONCE);

/// The reason why a value cannot be sealed or opened, without bytes of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the key cannot be used")]
    Key,
    #[error("the operating system returned no random bytes")]
    Random,
    #[error(
        "the sealed value was made with a key that is not among SECRETS_KEY and SECRETS_KEYS_OLD"
    )]
    UnknownKey,
    #[error("the sealed value is damaged or was copied from another place")]
    Damaged,
}

/// An opened value, which cannot be printed, cloned or serialized. Dropping the value wipes it.
pub struct Plaintext(pub(super) Zeroizing<Vec<u8>>);

impl Plaintext {
    /// Returns the text of the value, for its one use.
    ///
    /// # Errors
    /// [`SealError::Damaged`] if the bytes are not UTF-8.
    pub fn expose(&self) -> Result<&str, SealError> {
        std::str::from_utf8(&self.0).map_err(|_| SealError::Damaged)
    }
}

/// Encrypts and signs, and cannot decrypt.
#[derive(Clone)]
pub struct Sealer(pub(super) Arc<Keyring>);

/// Decrypts.
#[derive(Clone)]
pub struct Opener(pub(super) Arc<Keyring>);

impl Sealer {
    /// Seals a text for one context with the current key.
    ///
    /// # Errors
    /// [`SealError::Random`] or [`SealError::Key`].
    pub fn seal(&self, context: impl SealContext, plain: &str) -> Result<Sealed, SealError> {
        let key = self.0.current()?;
        seal_for_context(key, &context, plain)
    }

    /// Seals a text with the first listed key id that the keyring has.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] if the keyring has none of these keys.
    pub fn seal_with(
        &self,
        key_ids: &[String],
        context: impl SealContext,
        plain: &str,
    ) -> Result<Sealed, SealError> {
        let key = key_ids
            .iter()
            .find_map(|id| self.0.find_by_hex_id(id))
            .ok_or(SealError::UnknownKey)?;
        seal_for_context(key, &context, plain)
    }
}

fn seal_for_context(
    key: &WrappingKey,
    context: &impl SealContext,
    plain: &str,
) -> Result<Sealed, SealError> {
    let id = context.value();
    key.seal(
        &context.associated_data(),
        id.0.as_bytes(),
        plain.as_bytes(),
    )
}

impl Opener {
    /// Opens a value that was sealed for the same context.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] or [`SealError::Damaged`].
    pub fn open(&self, context: impl SealContext, sealed: &Sealed) -> Result<Plaintext, SealError> {
        let id = context.value();
        self.0
            .open(&context.associated_data(), id.0.as_bytes(), sealed)
    }
}

impl Keyring {
    /// Opens bytes with the key that their wrapping names.
    pub(super) fn open(
        &self,
        associated_data: &[u8],
        id: &[u8],
        sealed: &Sealed,
    ) -> Result<Plaintext, SealError> {
        let bytes = &sealed.0[..];
        if bytes.len() < HEADER {
            return Err(SealError::Damaged);
        }
        let (wrapping, rest) = bytes.split_at(Sealed::WRAPPING);
        let (nonce, ciphertext) = rest.split_at(NONCE);
        let key = self.unwrap(id, wrapping)?;
        decrypt(&cipher(&key)?, nonce, ciphertext, associated_data).map(Plaintext)
    }

    /// Returns the key of one value from its wrapping.
    pub(super) fn unwrap(
        &self,
        id: &[u8],
        wrapping: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if wrapping.len() != Sealed::WRAPPING || wrapping[0] != FORMAT {
            return Err(SealError::Damaged);
        }
        let (key_id, rest) = wrapping[1..].split_at(KEY_ID);
        let (nonce, wrapped) = rest.split_at(NONCE);
        let key = self.find(key_id).ok_or(SealError::UnknownKey)?;
        decrypt(&key.cipher, nonce, wrapped, &length_prefixed(&[id, key_id]))
    }
}

impl WrappingKey {
    /// Seals bytes with a new random key and wraps that key.
    pub(super) fn seal(
        &self,
        associated_data: &[u8],
        id: &[u8],
        plain: &[u8],
    ) -> Result<Sealed, SealError> {
        let mut key = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *key).map_err(|_| SealError::Random)?;
        let nonce = random_nonce()?;
        let wrapping = self.wrap(id, &*key)?;
        let ciphertext = encrypt(&cipher(&*key)?, &nonce, plain, associated_data)?;
        let sealed = [&wrapping[..], &nonce, &ciphertext].concat();
        Ok(Sealed(Bytes::from(sealed)))
    }

    /// Returns the wrapping of a value's key.
    pub(super) fn wrap(&self, id: &[u8], key: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = random_nonce()?;
        let associated_data = length_prefixed(&[id, &self.id]);
        let wrapped = encrypt(&self.cipher, &nonce, key, &associated_data)?;
        Ok([&[FORMAT][..], &self.id, &nonce, &wrapped].concat())
    }
}

/// Joins parts so that no two lists of parts give the same bytes: each part follows its length.
pub(super) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        data.extend_from_slice(&(part.len() as u32).to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}

pub(super) fn cipher(key: &[u8]) -> Result<Aes256Gcm, SealError> {
    let key: &Key<Aes256Gcm> = key.try_into().map_err(|_| SealError::Key)?;
    Ok(Aes256Gcm::new(key))
}

fn random_nonce() -> Result<[u8; NONCE], SealError> {
    let mut nonce = [0u8; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| SealError::Random)?;
    Ok(nonce)
}

fn encrypt(
    cipher: &Aes256Gcm,
    nonce: &[u8; NONCE],
    msg: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, SealError> {
    cipher
        .encrypt(&Nonce::<Aes256Gcm>::from(*nonce), Payload { msg, aad })
        .map_err(|_| SealError::Key)
}

pub(super) fn decrypt(
    cipher: &Aes256Gcm,
    nonce: &[u8],
    msg: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let nonce: &Nonce<Aes256Gcm> = nonce.try_into().map_err(|_| SealError::Damaged)?;
    cipher
        .decrypt(nonce, Payload { msg, aad })
        .map(Zeroizing::new)
        .map_err(|_| SealError::Damaged)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::{ServerId, ValueId};
    use crate::core::names::{SecretName, UserName};
    use crate::crypto::context::{
        GoogleContext, GoogleValueKind, SecretContext, ServerValueContext, ServerValueKind,
    };
    use crate::crypto::keyring::{SecretsKey, new_record, open_keyring};

    fn keyring() -> (Sealer, Opener) {
        let key = SecretsKey::new("correct horse battery staple".into());
        let record = new_record(&key).expect("record");
        open_keyring(&record, &key, &[]).expect("keyring")
    }

    #[test]
    fn a_value_opens_in_its_context_only() {
        let (sealer, opener) = keyring();
        let user: UserName = "ana".parse().expect("name");
        let other: UserName = "ben".parse().expect("name");
        let name: SecretName = "token".parse().expect("name");
        let context = SecretContext {
            server: ServerId(Uuid::nil()),
            user: Some(&user),
            name: &name,
            value: ValueId(Uuid::max()),
        };
        let sealed = sealer.seal(context, "s3cret").expect("sealed");
        assert!(memchr::memmem::find(&sealed.0, b"s3cret").is_none());
        assert_eq!(
            opener.open(context, &sealed).expect("opened").expose(),
            Ok("s3cret")
        );
        let moved = SecretContext {
            user: Some(&other),
            ..context
        };
        assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        let moved = SecretContext {
            value: ValueId(Uuid::nil()),
            ..context
        };
        assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        for index in 0..sealed.0.len() {
            let mut bytes = sealed.0.to_vec();
            bytes[index] ^= 1;
            assert!(
                opener.open(context, &Sealed(bytes.into())).is_err(),
                "byte {index}"
            );
        }
        assert!(
            opener
                .open(context, &Sealed(sealed.0.slice(..HEADER)))
                .is_err()
        );
    }

    #[test]
    fn a_server_value_opens_as_its_own_kind_only() {
        let (sealer, opener) = keyring();
        let server = ServerId(Uuid::nil());
        let value = ValueId(Uuid::max());
        let context = ServerValueContext {
            server,
            kind: ServerValueKind::Header,
            name: "cookie",
            value,
        };
        let sealed = sealer.seal(context, "s3cret").expect("sealed");
        assert_eq!(
            opener.open(context, &sealed).expect("opened").expose(),
            Ok("s3cret")
        );
        for moved in [
            ServerValueContext {
                kind: ServerValueKind::Session,
                ..context
            },
            ServerValueContext {
                name: "x-api-key",
                ..context
            },
            ServerValueContext {
                server: ServerId(Uuid::max()),
                ..context
            },
        ] {
            assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        }
    }

    #[test]
    fn google_tokens_open_for_their_user_only() {
        let (sealer, opener) = keyring();
        let user: UserName = "ana".parse().expect("name");
        let other: UserName = "ben".parse().expect("name");
        let server = ServerId(Uuid::nil());
        let value = ValueId(Uuid::max());
        let context = GoogleContext {
            server,
            user: &user,
            kind: GoogleValueKind::Tokens,
            value,
        };
        let sealed = sealer.seal(context, "{}").expect("sealed");
        assert_eq!(
            opener.open(context, &sealed).expect("opened").expose(),
            Ok("{}")
        );
        for moved in [
            GoogleContext {
                user: &other,
                ..context
            },
            GoogleContext {
                kind: GoogleValueKind::Code,
                ..context
            },
        ] {
            assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        }
    }

    #[test]
    fn the_same_value_seals_differently_each_time() {
        let (sealer, _) = keyring();
        let user = UserName::default();
        let name = "n".parse().expect("name");
        let context = SecretContext {
            server: ServerId(Uuid::nil()),
            user: Some(&user),
            name: &name,
            value: ValueId(Uuid::nil()),
        };
        assert!(
            sealer.seal(context, "x").expect("sealed")
                != sealer.seal(context, "x").expect("sealed")
        );
    }
}
