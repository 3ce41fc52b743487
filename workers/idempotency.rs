//! A change, made once however often it is asked for: by its command's id, and by the key its sender gave.

use super::context::Context;
use crate::core::catalog::Catalog;
use crate::core::decide::idempotency;
use crate::core::event::{Actor, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::CommandId;
use crate::core::model::idempotency::IdempotencyKey;
use crate::eventlog::appender::Committed;
use crate::ports::vault::VaultValue;

/// Decides and appends a change that somebody at the API wants.
pub async fn commit_once(
    context: &Context,
    id: CommandId,
    key: Option<IdempotencyKey>,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
) -> Result<Committed, Failure> {
    commit_once_with_values(context, id, key, vec![], decide).await
}

/// The same where its events name values.
pub async fn commit_once_with_values(
    context: &Context,
    id: CommandId,
    key: Option<IdempotencyKey>,
    values: Vec<VaultValue>,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
) -> Result<Committed, Failure> {
    let Some(key) = key else {
        return context
            .appender
            .commit_with_values(id, Actor::Api, values, decide)
            .await;
    };
    let until = context.job_client.idempotency_expiry();
    let attempt = async |id| {
        let (decide, values) = (decide.clone(), values.clone());
        let keyed =
            move |catalog: &Catalog| idempotency::decide_once(catalog, id, key, until, &decide);
        context
            .appender
            .commit_with_values(id, Actor::Api, values, keyed)
            .await
    };
    let known = || idempotency::command_for_key(&context.projection.catalog(), key, id);
    let first = known()?;
    match attempt(first).await {
        // Of two at the same moment the other was first: its change is this one.
        Err(failure) if failure.code == Code::Unavailable && known()? != first => {
            attempt(known()?).await
        }
        made => made,
    }
}
