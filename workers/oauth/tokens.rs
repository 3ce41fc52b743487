//! Grants: kept when they are given, got by way of a browser, and refreshed.

use std::sync::Arc;
use std::time::Duration;

use futures::TryFutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client;
use super::client::TokenResponse;
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::StoreTokens;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{GrantId, GrantTokens, RefreshCredentials};
use crate::core::model::remote::plain_url;
use crate::core::model::server::ServerStatus;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::ports::error::StoreError;
use crate::ports::vault::Sealed;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::workers::context::Context;
use crate::workers::permits::ChangePermit;
use crate::workers::{idempotency, servers};

/// How long new tokens are tried to be kept while the store is away: without that the access is lost.
const KEEP: Duration = Duration::from_secs(60);
pub const AGAIN: Duration = Duration::from_millis(300);

/// Keeps tokens that were given, drops those before them, and starts anew what used them.
pub async fn store_tokens(
    context: Arc<Context>,
    command: StoreTokens,
    permit: ChangePermit,
) -> Result<ServerStatus, Failure> {
    let StoreTokens {
        id,
        key,
        grant,
        server_name,
        tokens,
        sealed,
        if_absent,
    } = command;
    // Under a key it may be its own success that is there.
    if if_absent && key.is_none() {
        // Where some are there already, nothing need be put.
        crate::core::decide::grant::require_no_tokens(&context.projection.catalog(), &grant)?;
    }
    let values = servers::vault_values(&context, &sealed)?;
    let decide = move |catalog: &Catalog| {
        if if_absent {
            crate::core::decide::grant::require_no_tokens(catalog, &grant)?;
        }
        crate::core::decide::grant::store_tokens(catalog, &grant, tokens)
    };
    let done = idempotency::commit_once_with_values(&context, id, key, values, decide).await?;
    servers::drop_replaced(&context, &server_name, &done).await;
    drop(permit);
    servers::settle(&context, &server_name).await
}

/// Where a server is.
pub fn url_of(server: &Server) -> Result<Url, Failure> {
    let url = server
        .remote()
        .and_then(|remote| Url::parse(&plain_url(&remote.url)).ok());
    url.ok_or_else(|| crate::core::decide::grant::not_remote(server))
}

/// Puts the two halves of new tokens into the Vault.
pub async fn put(
    context: &Context,
    id: &GrantId,
    renewal: &RefreshCredentials,
    new: &TokenResponse,
) -> Result<GrantTokens, Failure> {
    let access = put_text(context, id, GrantValueKind::Access, &client::header(new)).await?;
    let then = put_json(context, id, GrantValueKind::Renewal, renewal).await?;
    let expires_in = new.expires_in.map(|seconds| seconds.max(0.0) as u64);
    Ok(GrantTokens::new(
        access,
        then,
        renewal.refresh_token.is_some(),
        now_ms(),
        expires_in,
    ))
}

pub async fn put_json(
    context: &Context,
    id: &GrantId,
    part: GrantValueKind,
    what: &impl Serialize,
) -> Result<ValueId, Failure> {
    let text = Zeroizing::new(serde_json::to_string(what).map_err(internal_error)?);
    put_text(context, id, part, &text).await
}

async fn put_text(
    context: &Context,
    id: &GrantId,
    part: GrantValueKind,
    text: &str,
) -> Result<ValueId, Failure> {
    let (value, sealed_store) = (ValueId(Uuid::now_v7()), &context.manager.sealed_store);
    let sealed = sealed_store
        .sealer
        .seal(
            GrantContext {
                grant: id,
                part,
                value,
            },
            text,
        )
        .map_err(internal_error)?;
    retry_store(|| sealed_store.vault.put(value, sealed.clone()).map_err(away)).await?;
    Ok(value)
}

/// What lies there of a grant.
pub async fn open_json<T: DeserializeOwned>(
    context: &Context,
    id: &GrantId,
    part: GrantValueKind,
    value: ValueId,
) -> Result<T, Failure> {
    let sealed = context
        .manager
        .sealed_store
        .find(value)
        .await
        .map_err(away)?;
    let sealed =
        sealed.ok_or_else(|| Failure::unavailable("The tokens were being changed; ask again"))?;
    read(&unseal(context, id, part, value, &sealed)?)
}

pub fn unseal(
    context: &Context,
    id: &GrantId,
    part: GrantValueKind,
    value: ValueId,
    sealed: &Sealed,
) -> Result<Zeroizing<String>, Failure> {
    let opened = context
        .manager
        .sealed_store
        .opener
        .open(
            GrantContext {
                grant: id,
                part,
                value,
            },
            sealed,
        )
        .map_err(internal_error)?;
    Ok(Zeroizing::new(
        opened.expose().map_err(internal_error)?.to_owned(),
    ))
}

pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    // An error of the parser could hold a piece of it.
    serde_json::from_str(text)
        .map_err(|_| internal_error("what was sealed of a grant is not what it was sealed as"))
}

/// Tries again while the store is away.
pub async fn retry_store<T, F: Future<Output = Result<T, Failure>>>(
    work: impl Fn() -> F,
) -> Result<T, Failure> {
    let until = Instant::now() + KEEP;
    loop {
        match work().await {
            Err(failure) if failure.code == Code::Unavailable && Instant::now() < until => {
                tokio::time::sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

pub fn away(error: StoreError) -> Failure {
    tracing::warn!(%error, "the store failed");
    Failure::unavailable("The store cannot be reached")
}
