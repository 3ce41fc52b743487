//! Links that begin an authorization: each link is used once, whichever facade the browser opens it at.

use std::sync::Arc;

use uuid::Uuid;

use crate::core::command::UseLink;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{LeaseId, WorkerId};
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::telemetry::error::{error_chain, internal_error};
use crate::workers::context::Context;
use crate::workers::sealed_store::store_unavailable;

/// Records the use of a link. A lease excludes a second use at the same moment, and the record in the Vault excludes
/// every later use. No event names the record, so the sweep removes it when it is older than an hour, long after the
/// link has expired.
///
/// # Errors
/// `forbidden` if the link was used before. Fails also if the store is unavailable.
pub async fn use_link(context: Arc<Context>, command: UseLink) -> Result<(), Failure> {
    let _permit = context.oauth_limits.start(&command.grant)?;
    let lease = LeaseId(command.link.0);
    // Two uses in one worker exclude each other too, because each has a holder of its own.
    let holder = WorkerId(Uuid::now_v7());
    let ttl = context.manager.limits.lease_ttl;
    let acquired = context.leases.acquire(lease, holder, ttl).await;
    if acquired.map_err(store_unavailable)?.is_none() {
        return Err(already_used());
    }
    let recorded = record_use(&context, &command).await;
    if let Err(error) = context.leases.release(lease, holder).await {
        tracing::warn!(
            error = error_chain(&error),
            "cannot release the lease of a link; the lease expires"
        );
    }
    recorded
}

async fn record_use(context: &Context, command: &UseLink) -> Result<(), Failure> {
    let sealed_store = &context.manager.sealed_store;
    let found = sealed_store.find(command.link).await;
    if found.map_err(store_unavailable)?.is_some() {
        return Err(already_used());
    }
    let seal_context = GrantContext {
        grant: &command.grant,
        part: GrantValueKind::UsedLink,
        value: command.link,
    };
    let record = sealed_store
        .sealer
        .seal(seal_context, "used")
        .map_err(internal_error)?;
    sealed_store
        .vault
        .put(command.link, record)
        .await
        .map_err(store_unavailable)
}

fn already_used() -> Failure {
    Failure::new(
        Code::Forbidden,
        "This link was used already, and each link begins one authorization; ask for a new link",
    )
}
