//! Handlers of the commands on tokens of users.

use std::sync::Arc;

use super::context::Context;
use super::idempotency;
use crate::core::command::{CreateToken, RevokeToken};
use crate::core::decide::token;
use crate::core::failure::Failure;

/// Creates a token. The event names its digest, and no worker knows the token itself.
///
/// # Errors
/// Fails with the failure of the decision, or if the store does not respond.
pub(super) async fn create(context: Arc<Context>, command: CreateToken) -> Result<(), Failure> {
    let origin = command.origin.clone();
    idempotency::commit_once(&context, &origin, move |catalog| {
        token::create_token(catalog, &command)
    })
    .await?;
    Ok(())
}

/// Revokes a token and every token that it made.
///
/// # Errors
/// Fails with `token_not_found`, or if the store does not respond.
pub(super) async fn revoke(context: Arc<Context>, command: RevokeToken) -> Result<(), Failure> {
    let origin = command.origin.clone();
    idempotency::commit_once(&context, &origin, move |catalog| {
        token::revoke_token(catalog, &command)
    })
    .await?;
    Ok(())
}
