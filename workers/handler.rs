//! Handlers: parses the command of an ask, runs its handler and encodes the result.

use bytes::Bytes;

use crate::core::command::{Command, DeliveryMode};
use crate::core::failure::Failure;
use crate::ports::bus::Ask;
use crate::telemetry::error::internal_error;

/// The reason why an ask has no result.
pub(super) enum HandlerError {
    /// A permit is missing, and nothing has started.
    Busy,
    Failed(Failure),
}

impl From<Failure> for HandlerError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Parses a command, handles it and encodes the result. A change runs on a task of its own, so it is completed even if
/// the sender disconnects.
pub(super) async fn handle<C, F>(
    ask: Ask,
    handler: impl FnOnce(C) -> F,
) -> Result<Bytes, HandlerError>
where
    C: Command,
    C::Answer: Send + 'static,
    F: Future<Output = Result<C::Answer, Failure>> + Send + 'static,
{
    let command = serde_json::from_slice(&ask.body).map_err(|error| {
        Failure::invalid(format!(
            "The message cannot be parsed as the command {}: {error}",
            C::NAME
        ))
    })?;
    let result = match C::DELIVERY {
        DeliveryMode::Change => tokio::spawn(handler(command))
            .await
            .map_err(internal_error)?,
        DeliveryMode::Ask | DeliveryMode::Job => handler(command).await,
    };
    Ok(serde_json::to_vec(&result?).map_err(internal_error)?.into())
}

/// Returns the JSON of a failure.
pub(super) fn encode(failure: &Failure) -> Bytes {
    serde_json::to_vec(failure).unwrap_or_default().into()
}
