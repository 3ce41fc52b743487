//! The public keys of the issuer.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// The most keys of an issuer.
const MAX_KEYS: usize = 100;

/// The key that a JWT names in its header.
#[derive(Debug, Clone)]
pub struct KeyName {
    pub id: Option<String>,
    pub algorithm: Algorithm,
}

/// The keys that verify signatures. A key has one algorithm, so a JWT cannot use it with another algorithm.
#[derive(Debug, Default, PartialEq)]
pub(super) struct KeySet(Vec<(Algorithm, Jwk)>);

impl KeySet {
    /// Returns the usable keys of a JWK Set. Other keys of the set do no harm.
    pub(super) fn from_json(keys: Vec<Value>) -> Self {
        let usable = keys.into_iter().filter_map(|key| {
            let key: Jwk = serde_json::from_value(key).ok()?;
            Some((algorithm_of(&key)?, key))
        });
        Self(usable.take(MAX_KEYS).collect())
    }

    /// Returns the key that a JWT names. A JWT without a key id gets the only key of its algorithm.
    pub(super) fn find(&self, name: &KeyName) -> Option<DecodingKey> {
        let of_algorithm = self.0.iter().filter(|(key, _)| *key == name.algorithm);
        let mut matching = of_algorithm
            .filter(|(_, key)| name.id.is_none() || key.common.key_id == name.id)
            .map(|(_, key)| key);
        let found = matching.next()?;
        if name.id.is_none() && matching.next().is_some() {
            return None;
        }
        DecodingKey::from_jwk(found).ok()
    }
}

/// Returns the algorithm of a key, or `None` if the key verifies no JWT.
fn algorithm_of(key: &Jwk) -> Option<Algorithm> {
    let (algorithm, declared) = match &key.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(parameters)
            if parameters.curve == EllipticCurve::P256 =>
        {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(parameters)
            if parameters.curve == EllipticCurve::Ed25519 =>
        {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let signs = key
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let fits = key
        .common
        .key_algorithm
        .is_none_or(|named| named == declared);
    (signs && fits).then_some(algorithm)
}
