//! A change, made once however often it is asked for: by its command's id, and by the key its sender gave.

use super::context::Context;
use crate::core::catalog::Catalog;
use crate::core::event::{Actor, Event};
use crate::core::failure::{Code, Failure};
use crate::core::job::RequestKey;
use crate::core::names::CommandId;
use crate::core::request;
use crate::execute::Done;

/// Decides and appends a change that somebody at the API wants.
pub async fn change(
    context: &Context,
    id: CommandId,
    key: Option<RequestKey>,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Clone + Send + Sync + 'static,
) -> Result<Done, Failure> {
    let Some(key) = key else { return context.execute.change(id, Actor::Api, decide).await };
    let until = context.queue.keep_keys_until();
    let attempt = async |id| {
        let decide = decide.clone();
        let keyed = move |catalog: &Catalog| request::once(catalog, id, key, until, &decide);
        context.execute.change(id, Actor::Api, keyed).await
    };
    let known = || request::command_of(&context.follow.catalog(), key, id);
    let first = known()?;
    match attempt(first).await {
        // Of two at the same moment the other was first: its change is this one.
        Err(failure) if failure.code == Code::Unavailable && known()? != first => attempt(known()?).await,
        made => made,
    }
}
