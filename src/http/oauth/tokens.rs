//! `/mcp/servers/{name}/oauth`: a client stores tokens for a server behind a URL.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use url::Url;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::core::command::StoreTokens;
use crate::core::decide::grant::not_remote;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::grant::{
    GrantId, GrantTokens, MAX_TOKEN_LENGTH, RefreshCredentials, check_scopes, check_text,
};
use crate::core::names::UserName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::http::extract::idempotency::IdempotencyHeader;
use crate::http::extract::json::JsonBody;
use crate::http::extract::path::{SecretsServer, ServerNamePath};
use crate::http::respond::json::{ApiError, Success};
use crate::http::servers::{OneServer, respond_with_server, server_start_limit};
use crate::http::state::{ApiState, change_origin};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::views::failure::ErrorBody;

/// Tokens from an authorization server, and the client that got them.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OauthBody {
    /// The user of the tokens. If absent: the caller; for an administrator, all users who have no tokens of their own.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    /// `Bearer` (also if absent). The program supports no other type.
    token_type: Option<String>,
    #[schema(value_type = String)]
    access_token: Zeroizing<String>,
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Zeroizing<String>>,
    /// The life of the access token in seconds. If absent, the program refreshes the token when
    /// the server refuses it.
    expires_in: Option<u64>,
    scopes: Option<Vec<String>>,
    client_id: String,
    #[schema(value_type = Option<String>)]
    client_secret: Option<Zeroizing<String>>,
    /// The URI to which the authorization server sent the code.
    #[schema(example = "https://platform.example.com/oauth/callback")]
    redirect_uri: String,
    /// The program stores it sealed and does not use it.
    #[schema(value_type = Option<String>)]
    code_verifier: Option<Zeroizing<String>>,
    /// If true, stored tokens stay, and the answer is 409 `conflict`.
    #[serde(default)]
    if_absent: bool,
}

/// Store OAuth tokens for a streamable_http server, encrypted.
///
/// They replace stored tokens, and the program refreshes them.
#[utoipa::path(
    post, operation_id = "store_oauth_tokens", path = "/mcp/servers/{name}/oauth",
    tag = "servers", params(ServerNamePath, IdempotencyHeader), request_body = OauthBody,
    responses(
        (status = 200, description = "The server with its new status", body = Success<OneServer>),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 409, description = "With `ifAbsent`: stored tokens stay", body = ErrorBody),
    )
)]
pub(crate) async fn store(
    State(state): State<Arc<ApiState>>,
    SecretsServer { caller, server }: SecretsServer,
    key: IdempotencyHeader,
    JsonBody { value: body, bytes }: JsonBody<OauthBody>,
) -> Result<Response, ApiError> {
    let user = caller.grant_user(body.username.clone())?;
    body.check()?;
    if server.remote().is_none() {
        return Err(not_remote(&server).into());
    }
    let grant = GrantId {
        server: server.id,
        user,
    };
    let expires_in = body.expires_in;
    let is_refreshable = body.refresh_token.is_some();
    let if_absent = body.if_absent;
    let seal = |part, plain: &str| {
        let value = ValueId(Uuid::now_v7());
        let context = GrantContext {
            grant: &grant,
            part,
            value,
        };
        state.seal(context, plain)
    };
    let access = seal(GrantValueKind::Access, &body.authorization_header())?;
    let renewal = seal(GrantValueKind::Renewal, &body.into_refresh_credentials()?)?;
    let tokens = GrantTokens::new(
        access.value,
        renewal.value,
        is_refreshable,
        now_ms(),
        expires_in,
    );
    let command = StoreTokens {
        origin: change_origin(&caller, key.shared_key(&state, &bytes)?),
        grant: grant.clone(),
        server_name: server.name.clone(),
        tokens,
        sealed: vec![access, renewal],
        if_absent,
    };
    let limit = server_start_limit(&state, &server.name);
    let status = state.send_to_owner(&server.name, &command, limit).await?;
    respond_with_server(&state, &server.name, status).await
}

impl OauthBody {
    /// Checks the fields. No sentence repeats a value, because the value may be a secret.
    fn check(&self) -> Result<(), Failure> {
        if let Some(token_type) = &self.token_type
            && !token_type.eq_ignore_ascii_case("bearer")
        {
            return Err(Failure::invalid("tokenType must be Bearer"));
        }
        check_token("accessToken", &self.access_token)?;
        if let Some(token) = &self.refresh_token {
            check_token("refreshToken", token)?;
        }
        check_text("clientId", Some(&self.client_id))?;
        check_text("clientSecret", as_text(self.client_secret.as_ref()))?;
        check_text("codeVerifier", as_text(self.code_verifier.as_ref()))?;
        if Url::parse(&self.redirect_uri).is_err() {
            return Err(Failure::invalid("redirectUri must be an absolute URL"));
        }
        check_scopes(self.scopes.as_deref())
    }

    /// Returns the access token as the value of its header.
    fn authorization_header(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", &*self.access_token))
    }

    /// Returns the credentials of a refresh as JSON.
    fn into_refresh_credentials(self) -> Result<Zeroizing<String>, Failure> {
        let credentials = RefreshCredentials {
            refresh_token: self.refresh_token,
            client_id: self.client_id,
            client_secret: self.client_secret,
            redirect_uri: self.redirect_uri,
            code_verifier: self.code_verifier,
            scopes: self.scopes.unwrap_or_default(),
            endpoint: None,
        };
        let json = serde_json::to_string(&credentials).map_err(internal_error)?;
        Ok(Zeroizing::new(json))
    }
}

fn check_token(field: &str, token: &str) -> Result<(), Failure> {
    let is_valid = (1..=MAX_TOKEN_LENGTH).contains(&token.len())
        && token.bytes().all(|b| b.is_ascii_graphic());
    if is_valid {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "{field} must be 1 to {MAX_TOKEN_LENGTH} visible ASCII characters without blanks"
    )))
}

fn as_text(secret: Option<&Zeroizing<String>>) -> Option<&str> {
    secret.map(|secret| secret.as_str())
}
