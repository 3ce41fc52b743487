//! Stores and loads the sealed values of grants, and executes the command that stores tokens.

use std::error::Error;
use std::sync::Arc;

use futures::TryFutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client::{TokenResponse, error_text};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::StoreTokens;
use crate::core::decide::grant as decide;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{GrantId, GrantTokens, RefreshCredentials};
use crate::core::model::query::without_credentials;
use crate::core::model::remote::plain_url;
use crate::core::model::server::ServerStatus;
use crate::core::names::ServerName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::ports::vault::Sealed;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::time::retry::retry_store_call;
use crate::workers::context::Context;
use crate::workers::permits::ChangePermit;
use crate::workers::sealed_store::store_unavailable;
use crate::workers::{idempotency, servers};

/// Stores the tokens that a client has sent, removes the tokens they replace, and restarts the
/// connections that used those.
///
/// # Errors
/// Fails if the server is unknown, has no URL, or keeps its tokens because of `if_absent`.
pub async fn store_tokens(
    context: Arc<Context>,
    command: StoreTokens,
    permit: ChangePermit,
) -> Result<ServerStatus, Failure> {
    let StoreTokens {
        origin,
        grant,
        server_name,
        tokens,
        sealed,
        if_absent,
    } = command;
    // With an idempotency key, the tokens that exist may come from the first attempt of this command.
    if if_absent && origin.key.is_none() {
        decide::require_no_tokens(&context.projection.catalog(), &grant)?;
    }
    let values = servers::vault_values(&context, &sealed)?;
    let decide = move |catalog: &Catalog| {
        if if_absent {
            decide::require_no_tokens(catalog, &grant)?;
        }
        decide::store_tokens(catalog, &grant, tokens)
    };
    let committed = idempotency::commit_once_with_values(&context, &origin, values, decide).await?;
    servers::drop_replaced(&context, &server_name, &committed).await;
    drop(permit);
    servers::settle(&context, &server_name).await
}

/// Returns the URL of a server without user info and without the values of its query that can be credentials, because
/// the authorization server sees the URL.
///
/// # Errors
/// Fails if the server has no URL.
pub fn server_url(server: &Server) -> Result<Url, Failure> {
    server
        .remote()
        .and_then(|remote| Url::parse(&without_credentials(&plain_url(&remote.url))).ok())
        .ok_or_else(|| decide::not_remote(server))
}

/// Returns the failure of a request to a server's authorization server. The sentence of the error
/// continues after the name of the server.
pub fn upstream_failure(server: &ServerName, error: &(dyn Error + 'static)) -> Failure {
    Failure::new(
        Code::UpstreamError,
        format!("Server {server} {}", error_text(error)),
    )
}

/// Stores both sealed values of new tokens, and returns their ids.
///
/// # Errors
/// Fails if a value cannot be sealed, or if the store stays unavailable.
pub async fn store_token_values(
    context: &Context,
    grant: &GrantId,
    credentials: &RefreshCredentials,
    tokens: &TokenResponse,
) -> Result<GrantTokens, Failure> {
    let header = tokens.authorization_header();
    let access = store_text(context, grant, GrantValueKind::Access, &header).await?;
    let renewal = store_json(context, grant, GrantValueKind::Renewal, credentials).await?;
    Ok(GrantTokens::new(
        access,
        renewal,
        credentials.refresh_token.is_some(),
        now_ms(),
        tokens.expires_in,
    ))
}

/// Stores a sealed JSON value of a grant, and returns its id.
///
/// # Errors
/// Fails if the value cannot be sealed, or if the store stays unavailable.
pub async fn store_json(
    context: &Context,
    grant: &GrantId,
    part: GrantValueKind,
    value: &impl Serialize,
) -> Result<ValueId, Failure> {
    let text = Zeroizing::new(serde_json::to_string(value).map_err(internal_error)?);
    store_text(context, grant, part, &text).await
}

/// Retries while the store is unavailable, because unstored tokens are lost.
async fn store_text(
    context: &Context,
    grant: &GrantId,
    part: GrantValueKind,
    text: &str,
) -> Result<ValueId, Failure> {
    let value = ValueId(Uuid::now_v7());
    let sealed_store = &context.manager.sealed_store;
    let sealed = sealed_store
        .sealer
        .seal(GrantContext { grant, part, value }, text)
        .map_err(internal_error)?;
    retry_store_call(|| {
        sealed_store
            .vault
            .put(value, sealed.clone())
            .map_err(store_unavailable)
    })
    .await?;
    Ok(value)
}

/// Loads a JSON value of a grant.
///
/// # Errors
/// Fails if the store is unavailable, or if other tokens have replaced the value.
pub async fn load_json<T: DeserializeOwned>(
    context: &Context,
    grant: &GrantId,
    part: GrantValueKind,
    value: ValueId,
) -> Result<T, Failure> {
    let sealed = context
        .manager
        .sealed_store
        .find(value)
        .await
        .map_err(store_unavailable)?
        .ok_or_else(|| {
            Failure::unavailable("Other tokens are replacing these tokens; retry in a moment")
        })?;
    parse_json(&open_value(context, grant, part, value, &sealed)?)
}

/// Opens a sealed value of a grant.
///
/// # Errors
/// Fails if the value was sealed for another context or with an unknown key.
pub fn open_value(
    context: &Context,
    grant: &GrantId,
    part: GrantValueKind,
    value: ValueId,
    sealed: &Sealed,
) -> Result<Zeroizing<String>, Failure> {
    let opened = context
        .manager
        .sealed_store
        .opener
        .open(GrantContext { grant, part, value }, sealed)
        .map_err(internal_error)?;
    let text = opened.expose().map_err(internal_error)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Parses an opened value. The failure does not contain the parser's error, because that can contain
/// a part of the value.
///
/// # Errors
/// Fails if the text is not JSON of this type.
pub fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|_| internal_error("a sealed value of a grant is damaged"))
}
