//! `/tokens`: the tokens of users. A token is shown once, in the answer that creates it.

mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::view::TokenView;
pub(super) use self::view::server_names;
use super::auth::TokensCaller;
use super::extract::json::{JsonBody, OptionalJsonBody};
use super::extract::path::PathText;
use super::extract::query::QueryParams;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::{ApiState, change_origin};
use crate::core::command::{CreateToken, RevokeToken};
use crate::core::decide::access::Action;
use crate::core::decide::token::{TokenLives, TokenRequest, token_not_found, token_rights};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::ids::{ServerId, TokenId};
use crate::core::model::caller::{AllowedServers, Caller, Scope, Scopes};
use crate::core::model::token::{Token, TokenDigest, token_text};
use crate::core::names::{ServerName, UserName};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::time::rfc3339::format_ms;
use crate::views::failure::ErrorBody;

/// The longest time for creating or revoking a token.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);
/// The life of a token that a person makes after a sign-in without naming one.
const USUAL_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest life that a request can name, in seconds: one hundred years.
const MAX_LIFE: u64 = 100 * 365 * 24 * 3600;

/// A token to make.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schema(example = json!({"username": "ana", "expiresIn": 2_592_000, "label": "laptop"}))]
pub(super) struct TokenBody {
    /// The user of the token; the caller if absent, and `default` for a caller without a user.
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    /// Any of `tools`, `secrets`, `tokens`, `audit`, `metrics`, `admin`; `tools` and `secrets` if absent.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Scope>>,
    /// The servers that the token may use; all servers of the caller if absent. It cannot be used with `admin`.
    #[schema(value_type = Option<Vec<String>>)]
    servers: Option<Vec<ServerName>>,
    /// The life in seconds. If absent: the life of the token that makes it, 30 days after a sign-in, else no end.
    #[schema(minimum = 1, maximum = 3_153_600_000_u64)]
    expires_in: Option<u64>,
    /// The purpose of the token, at most 256 characters.
    label: Option<String>,
}

/// A new token. No other answer shows `token`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewToken {
    #[schema(value_type = String)]
    id: TokenId,
    /// The token for the header `Authorization: Bearer`.
    #[schema(value_type = String)]
    token: Zeroizing<String>,
    #[schema(value_type = String)]
    username: UserName,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// `null` means all servers.
    #[schema(value_type = Option<Vec<String>>)]
    servers: Option<Vec<ServerName>>,
    expires_at: Option<String>,
    #[schema(value_type = Option<String>)]
    label: Option<Arc<str>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    tokens: Vec<TokenView>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    /// The user of the tokens; the caller if absent. For an administrator, no value means all users.
    #[param(value_type = Option<String>)]
    username: Option<UserName>,
}

/// Make a token for a user.
///
/// A token has at most the scopes, the servers and the life of the token that makes it.
#[utoipa::path(
    post, operation_id = "create_token", path = "/tokens", tag = "tokens",
    request_body = Option<TokenBody>,
    responses(
        (status = 200, description = "The token; this answer alone shows it",
            body = Success<NewToken>),
        (status = 404, description = "`servers` names an unknown server", body = ErrorBody),
        (status = 429, description = "The user has too many valid tokens", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(state): State<Arc<ApiState>>,
    TokensCaller(caller): TokensCaller,
    OptionalJsonBody(JsonBody { value: body, .. }): OptionalJsonBody<TokenBody>,
) -> Result<Response, ApiError> {
    let id = TokenId(Uuid::now_v7());
    let text = new_token_text(id)?;
    let digest = TokenDigest(Sha256::digest(text.as_bytes()).into());
    let token = new_token(&state, &caller, body, id, digest)?;
    let command = CreateToken {
        origin: change_origin(&caller, None),
        created: token.clone(),
    };
    state.send_command(&command, COMMAND_LIMIT).await?;
    let answer = NewToken {
        id,
        token: text,
        servers: server_names(&state.catalog(), &caller, &token.servers),
        username: token.user,
        scopes: token.scopes,
        expires_at: token.expires_at.map(format_ms),
        label: token.label,
    };
    let mut response = success(answer)?;
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Returns a token with 256 bits of the system's random source.
fn new_token_text(id: TokenId) -> Result<Zeroizing<String>, Failure> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut secret[..]).map_err(internal_error)?;
    Ok(Zeroizing::new(token_text(id, &secret)))
}

fn new_token(
    state: &ApiState,
    caller: &Caller,
    body: TokenBody,
    id: TokenId,
    digest: TokenDigest,
) -> Result<Token, Failure> {
    let now = now_ms();
    if body.expires_in.is_some_and(|life| life > MAX_LIFE) {
        return Err(Failure::invalid(format!(
            "expiresIn must be at most {MAX_LIFE} seconds"
        )));
    }
    let request = TokenRequest {
        user: body.username,
        scopes: body.scopes.map(Scopes::from_iter),
        servers: find_servers(state, caller, body.servers)?,
        life: body.expires_in.map(Duration::from_secs),
        label: body.label,
    };
    let lives = TokenLives {
        longest: state.access().longest_token_life,
        usual: USUAL_LIFE.min(state.access().longest_token_life),
    };
    let rights = token_rights(caller, &request, lives, now)?;
    Ok(Token {
        id,
        user: rights.user,
        digest,
        scopes: rights.scopes,
        servers: rights.servers,
        label: request.label.map(Arc::from),
        created_at: now,
        expires_at: rights.expires_at,
        created_by: Actor::from(caller).user,
        maker: caller.token,
    })
}

/// Returns the ids of the named servers.
fn find_servers(
    state: &ApiState,
    caller: &Caller,
    names: Option<Vec<ServerName>>,
) -> Result<AllowedServers, Failure> {
    let Some(names) = names else {
        return Ok(AllowedServers::All);
    };
    if names.is_empty() {
        return Err(Failure::invalid(
            "servers must name at least one server, or be left out for all servers",
        ));
    }
    let mut ids = names
        .iter()
        .map(|name| {
            let server = state.find_server_for(caller, Action::ManageTokens, name)?;
            Ok(server.id)
        })
        .collect::<Result<Vec<ServerId>, Failure>>()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(AllowedServers::Only(ids.into()))
}

/// List the tokens of a user, without the tokens themselves.
///
/// Tokens that ended more than 30 days ago are not listed.
#[utoipa::path(
    get, operation_id = "list_tokens", path = "/tokens", tag = "tokens", params(TokenQuery),
    responses((status = 200, description = "The tokens", body = Success<TokenList>))
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    TokensCaller(caller): TokensCaller,
    QueryParams(query): QueryParams<TokenQuery>,
) -> Result<Response, ApiError> {
    let catalog = state.catalog();
    let view = |stored: &Arc<_>| TokenView::new(&state, &catalog, &caller, stored);
    let tokens = match caller.grant_user(query.username)? {
        Some(user) => catalog.tokens.of_user(&user).map(view).collect(),
        None => catalog.tokens.all().map(view).collect(),
    };
    success(TokenList { tokens })
}

/// Revoke a token, and every token that it made. A process refuses a revoked token as soon as it has read the event.
#[utoipa::path(
    delete, operation_id = "revoke_token", path = "/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "The id of the token")),
    responses(
        (status = 200, description = "The token is revoked", body = Success<EmptyBody>),
        (status = 404, description = "The user has no token with this id", body = ErrorBody),
    )
)]
pub(super) async fn revoke(
    State(state): State<Arc<ApiState>>,
    TokensCaller(caller): TokensCaller,
    PathText(id): PathText,
) -> Result<Response, ApiError> {
    let token = id
        .parse()
        .map(TokenId)
        .map_err(|_| token_not_found("of that id"))?;
    let command = RevokeToken {
        origin: change_origin(&caller, None),
        token,
        user: (!caller.is_admin()).then(|| caller.user.clone()),
        at: now_ms(),
    };
    state.send_command(&command, COMMAND_LIMIT).await?;
    success(EmptyBody {})
}
