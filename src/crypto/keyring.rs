//! Another key: a value's own key is wrapped anew, and what was sealed with it stays as it is.

use bytes::Bytes;

use super::context::SealContext;
use super::seal::{CHECK_PLACE, KEY_ID, Opener, SealError, Sealer};
use crate::core::ids::ValueId;
use crate::ports::vault::{KeyRecord, Sealed};

impl Sealer {
    /// The id of the key that seals: no secret, since it stands in all that is sealed.
    pub fn key_id(&self) -> String {
        self.0
            .0
            .first()
            .map_or(String::new(), |key| hex::encode(key.id))
    }

    /// Seals with the first of these keys that it has; [`SealError::UnknownKey`] where it has none of them.
    pub fn seal_with(
        &self,
        keys: &[String],
        place: impl SealContext,
        plain: &str,
    ) -> Result<Sealed, SealError> {
        let listed = |id: &String| self.0.0.iter().find(|key| hex::encode(key.id) == *id);
        let key = keys.iter().find_map(listed).ok_or(SealError::UnknownKey)?;
        key.seal(
            &place.associated_data(),
            place.value().0.as_bytes(),
            plain.as_bytes(),
        )
    }
}

impl Opener {
    /// The wrapping under the key that seals; `None` where it has that already.
    pub fn rewrap(&self, value: ValueId, wrapping: &[u8]) -> Result<Option<Bytes>, SealError> {
        let current = self.0.0.first().ok_or(SealError::Key)?;
        if wrapping.get(1..=KEY_ID) == Some(&current.id[..]) {
            return Ok(None);
        }
        let id = value.0.as_bytes();
        let key = self.0.unwrap(id, wrapping)?;
        current.wrap(id, &key).map(|wrapped| Some(wrapped.into()))
    }

    /// The same value under the key that seals, whichever of the keys it lies under.
    pub fn current(&self, value: ValueId, sealed: Sealed) -> Result<Sealed, SealError> {
        let (wrapping, rest) = sealed.split();
        let renewed = self.rewrap(value, &wrapping)?;
        Ok(renewed.map_or(sealed, |wrapping| Sealed::wrapped(&wrapping, &rest)))
    }

    /// A check value that the key that seals passes alone; `None` where it does that already.
    pub fn new_check(&self, record: &KeyRecord) -> Result<Option<Vec<u8>>, SealError> {
        let current = self.0.0.first().ok_or(SealError::Key)?;
        if record.check.get(1..=KEY_ID) == Some(&current.id[..]) {
            return Ok(None);
        }
        current
            .seal(CHECK_PLACE, CHECK_PLACE, b"ok")
            .map(|sealed| Some(sealed.0.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ServerId;
    use crate::core::names::UserName;
    use crate::crypto::context::SecretContext;
    use crate::crypto::seal::{SecretsKey, new_record, open_keyring};

    fn key(digit: char) -> SecretsKey {
        SecretsKey::new(digit.to_string().repeat(64))
    }

    #[test]
    fn what_was_wrapped_anew_opens_with_the_new_key_alone() {
        let record = new_record(&key('a')).expect("record");
        let (old_sealer, old_opener) = open_keyring(&record, &key('a'), &[]).expect("ring");
        let (sealer, opener) = open_keyring(&record, &key('b'), &[key('a')]).expect("ring");
        assert_ne!(old_sealer.key_id(), sealer.key_id());

        let (user, name) = (UserName::default(), "n".parse().expect("name"));
        let value = ValueId(Uuid::max());
        let place = SecretContext {
            server: ServerId(Uuid::nil()),
            user: &user,
            name: &name,
            value,
        };
        let sealed = old_sealer.seal(place, "s3cret").expect("sealed");
        let renewed = opener.current(value, sealed.clone()).expect("wrapped anew");
        assert!(renewed.0[Sealed::WRAPPING..] == sealed.0[Sealed::WRAPPING..] && renewed != sealed);
        assert!(opener.current(value, renewed.clone()).expect("the same") == renewed);

        let check = opener
            .new_check(&record)
            .expect("a check")
            .expect("a new one");
        let renewed_record = KeyRecord { check, ..record };
        assert_eq!(opener.new_check(&renewed_record), Ok(None));
        let (_, alone) =
            open_keyring(&renewed_record, &key('b'), &[]).expect("the new key is enough");
        assert_eq!(
            alone.open(place, &renewed).expect("opened").expose(),
            Ok("s3cret")
        );
        assert_eq!(
            open_keyring(&renewed_record, &key('a'), &[]).err(),
            Some(SealError::UnknownKey)
        );
        assert_eq!(
            old_opener.open(place, &renewed).err(),
            Some(SealError::UnknownKey)
        );
    }

    #[test]
    fn another_key_that_is_listed_seals_where_it_is_named() {
        let record = new_record(&key('a')).expect("record");
        let (sealer, _) = open_keyring(&record, &key('a'), &[key('b')]).expect("ring");
        let (named, opener) = open_keyring(&record, &key('b'), &[key('a')]).expect("ring");
        let (user, name) = (UserName::default(), "n".parse().expect("name"));
        let value = ValueId(Uuid::max());
        let place = SecretContext {
            server: ServerId(Uuid::nil()),
            user: &user,
            name: &name,
            value,
        };
        let keys = ["00".repeat(KEY_ID), named.key_id()];
        let sealed = sealer.seal_with(&keys, place, "s3cret").expect("sealed");
        assert_eq!(
            opener.rewrap(value, &sealed.split().0),
            Ok(None),
            "it lies under that key"
        );
        assert_eq!(
            opener.open(place, &sealed).expect("opened").expose(),
            Ok("s3cret")
        );
        assert_eq!(
            sealer.seal_with(&keys[..1], place, "s3cret").err(),
            Some(SealError::UnknownKey)
        );
    }

    #[test]
    fn only_what_opens_is_wrapped_anew() {
        let record = new_record(&key('a')).expect("record");
        let (_, opener) = open_keyring(&record, &key('b'), &[key('a')]).expect("ring");
        let (stranger, _) =
            open_keyring(&new_record(&key('c')).expect("record"), &key('c'), &[]).expect("ring");
        let (user, name) = (UserName::default(), "n".parse().expect("name"));
        let value = ValueId(Uuid::max());
        let place = SecretContext {
            server: ServerId(Uuid::nil()),
            user: &user,
            name: &name,
            value,
        };
        let (wrapping, _) = stranger.seal(place, "x").expect("sealed").split();
        assert_eq!(opener.rewrap(value, &wrapping), Err(SealError::UnknownKey));
        for wrong in [&b""[..], b"garbage", &[1; Sealed::WRAPPING - 1]] {
            assert_eq!(opener.rewrap(value, wrong), Err(SealError::Damaged));
        }
    }
}
