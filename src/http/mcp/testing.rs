//! Helpers of the unit tests of this folder.

use crate::crypto::keyring::{SecretsKey, new_record, open_keyring};
use crate::crypto::seal::Sealer;

/// Returns a sealer with a key for tests.
pub(super) fn sealer() -> Sealer {
    let key = SecretsKey::new("a key for tests".into());
    let record = new_record(&key).expect("a record");
    open_keyring(&record, &key, &[]).expect("a keyring").0
}
