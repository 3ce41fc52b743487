//! Commits a change once, however often a client asks for it: by the id of its command, and by the
//! client's idempotency key.

use super::context::Context;
use crate::core::catalog::Catalog;
use crate::core::command::ChangeOrigin;
use crate::core::decide::idempotency;
use crate::core::event::Event;
use crate::core::failure::{Code, Failure};
use crate::eventlog::appender::Committed;
use crate::ports::vault::VaultValue;

/// Decides and commits a change of a client.
///
/// # Errors
/// Fails with the failure of `decide`, with `conflict` if the key belongs to another request, and with
/// `unavailable` if the store does not respond.
pub async fn commit_once(
    context: &Context,
    origin: &ChangeOrigin,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
) -> Result<Committed, Failure> {
    commit_once_with_values(context, origin, vec![], decide).await
}

/// Decides and commits a change whose events name sealed values.
///
/// # Errors
/// Fails like [`commit_once`].
pub async fn commit_once_with_values(
    context: &Context,
    origin: &ChangeOrigin,
    values: Vec<VaultValue>,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
) -> Result<Committed, Failure> {
    let ChangeOrigin { id, key, actor } = origin.clone();
    let Some(key) = key else {
        return context
            .appender
            .commit_with_values(id, actor, values, decide)
            .await;
    };
    let until = context.job_client.idempotency_expiry();
    let attempt = async |id| {
        let decide = decide.clone();
        let actor = actor.clone();
        let decide_once =
            move |catalog: &Catalog| idempotency::decide_once(catalog, id, key, until, &decide);
        context
            .appender
            .commit_with_values(id, actor, values.clone(), decide_once)
            .await
    };
    let command_id = || idempotency::command_for_key(&context.projection.catalog(), key, id);
    let first_id = command_id()?;
    match attempt(first_id).await {
        // Another request with this key was committed at the same moment, so both are one change.
        Err(failure) if failure.code == Code::Unavailable && command_id()? != first_id => {
            attempt(command_id()?).await
        }
        result => result,
    }
}
