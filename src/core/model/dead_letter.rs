//! Dead letters: messages of producers that nobody can read, kept for a while with the reason.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::core::ids::ValueId;

/// A message that was set aside. What it holds lies sealed in the Vault under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DeadLetter {
    #[schema(value_type = String)]
    pub letter: ValueId,
    /// The job's id, as its sender wrote it.
    pub id: String,
    /// The command's name, as its sender wrote it.
    pub command: String,
    pub reason: String,
    /// Bytes of its body.
    pub size: u64,
    /// Milliseconds since 1970: how long it is kept.
    pub until: u64,
}
