//! Encryption and signatures: the only module that touches key material.
//!
//! A facade gets a [`seal::Sealer`], which encrypts and signs. A worker also gets a
//! [`seal::Opener`], which decrypts.

pub mod context;
pub mod keyring;
pub mod predecessor;
pub mod seal;
pub mod signed;
