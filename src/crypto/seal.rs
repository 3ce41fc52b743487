//! Sealing: AES-256-GCM with a random key per value, wrapped by the deployment's key.
//!
//! Format 1: `1 | key id (8) | wrap nonce (12) | wrapped key (48) | nonce (12) | ciphertext and tag`.
//! The associated data binds a value to its place (server, user, name) and to its id, and a wrapped
//! key to the value's id: sealed bytes moved elsewhere do not open.
//!
//! `http` is given a [`Sealer`] only, workers an [`Opener`] too.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit, Nonce, Payload};
use aes_gcm::{Aes256Gcm, Key};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use hkdf::Hkdf;
use hkdf::hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::context::SealContext;
use crate::core::ids::Digest;
use crate::ports::vault::{KeyRecord, Sealed};

pub const FORMAT: u8 = 1;
pub const KEY_ID: usize = 8;
const NONCE: usize = 12;
/// A block of SHA-256, which is the length of key that HMAC takes as it is.
const SIGNING: usize = 64;
const WRAPPED: usize = 32 + 16;
const HEADER: usize = 1 + KEY_ID + NONCE + WRAPPED + NONCE;
const _: () = assert!(HEADER == Sealed::WRAPPING + NONCE);
pub const CHECK_PLACE: &[u8] = b"mcp-api key check";

/// What a user gave as `SECRETS_KEY`: wiped when dropped, never shown.
pub struct SecretsKey(pub(super) Zeroizing<String>);

impl SecretsKey {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// 32 bytes in hex or base64; anything else is a passphrase.
    fn bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let text = self.0.trim();
        let bytes = match text.len() {
            64 => hex::decode(text).ok(),
            43 | 44 => BASE64_STANDARD.decode(text).ok(),
            _ => None,
        };
        bytes.filter(|bytes| bytes.len() == 32).map(Zeroizing::new)
    }

    /// The key-encryption key. A passphrase goes through Argon2id (RFC 9106, second recommended
    /// option scaled to 19 MiB and two passes as OWASP advises): some 30 ms, once at start.
    fn derive(&self, salt: &[u8; 16]) -> Result<WrappingKey, SealError> {
        let mut material = Zeroizing::new([0u8; 32]);
        match self.bytes() {
            Some(bytes) => material.copy_from_slice(&bytes),
            None => argon2::Argon2::default()
                .hash_password_into(self.0.as_bytes(), salt, &mut *material)
                .map_err(|_| SealError::Key)?,
        }
        let hkdf = Hkdf::<Sha256>::new(Some(salt), &*material);
        let (mut key, mut id) = (Zeroizing::new([0u8; 32]), [0u8; KEY_ID]);
        let mut signing = Zeroizing::new([0u8; SIGNING]);
        hkdf.expand(b"mcp-api key-encryption key v1", &mut *key)
            .map_err(|_| SealError::Key)?;
        hkdf.expand(b"mcp-api signing key v1", &mut *signing)
            .map_err(|_| SealError::Key)?;
        hkdf.expand(b"mcp-api key id v1", &mut id)
            .map_err(|_| SealError::Key)?;
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

/// Why something cannot be sealed or opened. Never with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the key cannot be used")]
    Key,
    #[error("the operating system gave no random bytes")]
    Random,
    #[error(
        "the sealed value was made with a key that is not among SECRETS_KEY and SECRETS_KEYS_OLD"
    )]
    UnknownKey,
    #[error("the sealed value is damaged or was moved from its place")]
    Damaged,
}

pub(super) struct WrappingKey {
    pub id: [u8; KEY_ID],
    cipher: Aes256Gcm,
    signing: Zeroizing<[u8; SIGNING]>,
}

impl WrappingKey {
    fn mac(&self, what: &str, text: &str) -> Hmac<Sha256> {
        self.mac_of(what, text.as_bytes())
    }

    fn mac_of(&self, what: &str, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new((&*self.signing).into());
        mac.update(&length_prefixed(&[what.as_bytes(), bytes]));
        mac
    }
}

/// The deployment's keys: the first seals, all of them open.
pub(super) struct Keyring(pub Vec<WrappingKey>);

pub fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        data.extend_from_slice(&(part.len() as u32).to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}

/// An opened value: cannot be printed, cloned or serialized, and is wiped when dropped.
pub struct Plaintext(pub(super) Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The value for the one place it is meant for. It was text when it was sealed.
    pub fn expose(&self) -> Result<&str, SealError> {
        std::str::from_utf8(&self.0).map_err(|_| SealError::Damaged)
    }
}

/// Can seal and sign, and not open.
#[derive(Clone)]
pub struct Sealer(pub(super) Arc<Keyring>);

/// Can open.
#[derive(Clone)]
pub struct Opener(pub(super) Arc<Keyring>);

impl Sealer {
    pub fn seal(&self, place: impl SealContext, plain: &str) -> Result<Sealed, SealError> {
        self.0.seal(
            &place.associated_data(),
            place.value().0.as_bytes(),
            plain.as_bytes(),
        )
    }

    /// A signature that every process of the deployment can check. `what` keeps signatures of one kind of text from
    /// being used for another.
    pub fn sign(&self, what: &str, text: &str) -> Result<Vec<u8>, SealError> {
        let key = self.0.0.first().ok_or(SealError::Key)?;
        Ok(key.mac(what, text).finalize().into_bytes().to_vec())
    }

    /// A keyed digest: of the same bytes it is the same wherever `SECRETS_KEY` is the same, and nobody without
    /// that can tell what they were.
    pub fn digest(&self, what: &str, parts: &[&[u8]]) -> Result<Digest, SealError> {
        let key = self.0.0.first().ok_or(SealError::Key)?;
        let mac = key
            .mac_of(what, &length_prefixed(parts))
            .finalize()
            .into_bytes();
        Uuid::from_slice(&mac[..16])
            .map(Digest)
            .map_err(|_| SealError::Key)
    }

    /// Whether it is the signature of that text, with any of the keys; compared in constant time.
    pub fn is_signed(&self, what: &str, text: &str, signature: &[u8]) -> bool {
        self.0
            .0
            .iter()
            .any(|key| key.mac(what, text).verify_slice(signature).is_ok())
    }
}

impl Opener {
    pub fn open(&self, place: impl SealContext, sealed: &Sealed) -> Result<Plaintext, SealError> {
        self.0
            .open(&place.associated_data(), place.value().0.as_bytes(), sealed)
    }
}

impl Keyring {
    fn seal(&self, place: &[u8], id: &[u8], plain: &[u8]) -> Result<Sealed, SealError> {
        self.0.first().ok_or(SealError::Key)?.seal(place, id, plain)
    }

    fn open(&self, place: &[u8], id: &[u8], sealed: &Sealed) -> Result<Plaintext, SealError> {
        let bytes = &sealed.0[..];
        if bytes.len() < HEADER {
            return Err(SealError::Damaged);
        }
        let (wrapping, rest) = bytes.split_at(Sealed::WRAPPING);
        let (nonce, text) = rest.split_at(NONCE);
        let key = self.unwrap(id, wrapping)?;
        decrypt(&cipher(&key)?, nonce, text, place).map(Plaintext)
    }

    /// The value's own key.
    pub fn unwrap(&self, id: &[u8], wrapping: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if wrapping.len() != Sealed::WRAPPING || wrapping[0] != FORMAT {
            return Err(SealError::Damaged);
        }
        let (key_id, rest) = wrapping[1..].split_at(KEY_ID);
        let (nonce, wrapped) = rest.split_at(NONCE);
        let key = self
            .0
            .iter()
            .find(|key| key.id == key_id)
            .ok_or(SealError::UnknownKey)?;
        decrypt(&key.cipher, nonce, wrapped, &length_prefixed(&[id, key_id]))
    }
}

impl WrappingKey {
    pub fn seal(&self, place: &[u8], id: &[u8], plain: &[u8]) -> Result<Sealed, SealError> {
        let mut key = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *key).map_err(|_| SealError::Random)?;
        let nonce = nonce()?;
        let wrapped = self.wrap(id, &*key)?;
        let text = encrypt(&cipher(&*key)?, &nonce, plain, place)?;
        Ok(Sealed(Bytes::from([&wrapped[..], &nonce, &text].concat())))
    }

    pub fn wrap(&self, id: &[u8], key: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = nonce()?;
        let wrapped = encrypt(&self.cipher, &nonce, key, &length_prefixed(&[id, &self.id]))?;
        Ok([&[FORMAT][..], &self.id, &nonce, &wrapped].concat())
    }
}

pub fn cipher(key: &[u8]) -> Result<Aes256Gcm, SealError> {
    let key: &Key<Aes256Gcm> = key.try_into().map_err(|_| SealError::Key)?;
    Ok(Aes256Gcm::new(key))
}

fn nonce() -> Result<[u8; NONCE], SealError> {
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

pub fn decrypt(
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

/// The record a fresh deployment stores: a random salt and a check value of this key.
pub fn new_record(key: &SecretsKey) -> Result<KeyRecord, SealError> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).map_err(|_| SealError::Random)?;
    let ring = Keyring(vec![key.derive(&salt)?]);
    Ok(KeyRecord {
        salt,
        check: ring.seal(CHECK_PLACE, CHECK_PLACE, b"ok")?.0.to_vec(),
    })
}

/// The two halves of the keyring, or [`SealError::UnknownKey`] where none of the keys is the
/// deployment's own: with another key every stored secret would be lost without a word.
pub fn open_keyring(
    record: &KeyRecord,
    key: &SecretsKey,
    old: &[SecretsKey],
) -> Result<(Sealer, Opener), SealError> {
    let keys = std::iter::once(key)
        .chain(old)
        .map(|key| key.derive(&record.salt))
        .collect::<Result<_, _>>()?;
    let ring = Arc::new(Keyring(keys));
    ring.open(
        CHECK_PLACE,
        CHECK_PLACE,
        &Sealed(record.check.clone().into()),
    )?;
    Ok((Sealer(ring.clone()), Opener(ring)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::{ServerId, ValueId};
    use crate::core::names::{SecretName, UserName};
    use crate::crypto::context::{
        GoogleContext, GoogleValueKind, SecretContext, ServerValueContext, ServerValueKind,
    };

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn key(text: &str) -> SecretsKey {
        SecretsKey::new(text.into())
    }

    fn ring(text: &str) -> (KeyRecord, Sealer, Opener) {
        let record = new_record(&key(text)).expect("record");
        let (sealer, opener) = open_keyring(&record, &key(text), &[]).expect("ring");
        (record, sealer, opener)
    }

    #[test]
    fn a_value_opens_in_its_place_only() {
        let (_, sealer, opener) = ring(HEX);
        let (user, other): (UserName, UserName) =
            ("ana".parse().expect("name"), "ben".parse().expect("name"));
        let name: SecretName = "token".parse().expect("name");
        let place = SecretContext {
            server: ServerId(Uuid::nil()),
            user: &user,
            name: &name,
            value: ValueId(Uuid::max()),
        };
        let sealed = sealer.seal(place, "s3cret").expect("sealed");
        assert!(memchr::memmem::find(&sealed.0, b"s3cret").is_none());
        assert_eq!(
            opener.open(place, &sealed).expect("opened").expose(),
            Ok("s3cret")
        );
        let moved = SecretContext {
            user: &other,
            ..place
        };
        assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        let moved = SecretContext {
            value: ValueId(Uuid::nil()),
            ..place
        };
        assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        for at in 0..sealed.0.len() {
            let mut bytes = sealed.0.to_vec();
            bytes[at] ^= 1;
            assert!(
                opener.open(place, &Sealed(bytes.into())).is_err(),
                "byte {at}"
            );
        }
        assert!(
            opener
                .open(place, &Sealed(sealed.0.slice(..HEADER)))
                .is_err()
        );
    }

    #[test]
    fn a_server_value_opens_as_what_it_is_only() {
        let (_, sealer, opener) = ring(HEX);
        let (server, value) = (ServerId(Uuid::nil()), ValueId(Uuid::max()));
        let place = ServerValueContext {
            server,
            kind: ServerValueKind::Header,
            name: "cookie",
            value,
        };
        let sealed = sealer.seal(place, "s3cret").expect("sealed");
        assert_eq!(
            opener.open(place, &sealed).expect("opened").expose(),
            Ok("s3cret")
        );
        for moved in [
            ServerValueContext {
                kind: ServerValueKind::Session,
                ..place
            },
            ServerValueContext {
                name: "x-api-key",
                ..place
            },
            ServerValueContext {
                server: ServerId(Uuid::max()),
                ..place
            },
        ] {
            assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        }
    }

    #[test]
    fn google_tokens_open_for_their_user_only() {
        let (_, sealer, opener) = ring(HEX);
        let (user, other): (UserName, UserName) =
            ("ana".parse().expect("name"), "ben".parse().expect("name"));
        let (server, value) = (ServerId(Uuid::nil()), ValueId(Uuid::max()));
        let place = GoogleContext {
            server,
            user: &user,
            kind: GoogleValueKind::Tokens,
            value,
        };
        let sealed = sealer.seal(place, "{}").expect("sealed");
        assert_eq!(
            opener.open(place, &sealed).expect("opened").expose(),
            Ok("{}")
        );
        for moved in [
            GoogleContext {
                user: &other,
                ..place
            },
            GoogleContext {
                kind: GoogleValueKind::Code,
                ..place
            },
        ] {
            assert_eq!(opener.open(moved, &sealed).err(), Some(SealError::Damaged));
        }
    }

    #[test]
    fn a_signature_is_of_one_text_for_one_use() {
        let (record, sealer, _) = ring(HEX);
        let signature = sealer.sign("link", "ana").expect("signed");
        assert!(sealer.is_signed("link", "ana", &signature));
        assert!(
            !sealer.is_signed("link", "ben", &signature)
                && !sealer.is_signed("cookie", "ana", &signature)
        );
        assert!(
            !sealer.is_signed("link", "ana", &signature[..31])
                && !sealer.is_signed("link", "ana", b"")
        );
        let (newer, _) = open_keyring(&record, &key("the next one"), &[key(HEX)]).expect("ring");
        assert!(
            newer.is_signed("link", "ana", &signature),
            "a new key takes what the old one signed"
        );
    }

    #[test]
    fn another_key_is_refused_and_a_listed_old_one_accepted() {
        let (record, ..) = ring("correct horse battery staple");
        assert_eq!(
            open_keyring(&record, &key("wrong"), &[]).err(),
            Some(SealError::UnknownKey)
        );
        assert!(
            open_keyring(
                &record,
                &key("wrong"),
                &[key("correct horse battery staple")]
            )
            .is_ok()
        );
    }

    #[test]
    fn hex_and_base64_of_the_same_bytes_are_the_same_key() {
        let (record, ..) = ring(HEX);
        let base64 = BASE64_STANDARD.encode(hex::decode(HEX).expect("hex"));
        assert!(open_keyring(&record, &key(&base64), &[]).is_ok());
        assert!(key("not 32 bytes").bytes().is_none());
    }

    #[test]
    fn the_same_value_seals_differently_each_time() {
        let (_, sealer, _) = ring(HEX);
        let (user, name) = (UserName::default(), "n".parse().expect("name"));
        let place = SecretContext {
            server: ServerId(Uuid::nil()),
            user: &user,
            name: &name,
            value: ValueId(Uuid::nil()),
        };
        assert!(
            sealer.seal(place, "x").expect("sealed") != sealer.seal(place, "x").expect("sealed")
        );
    }
}
