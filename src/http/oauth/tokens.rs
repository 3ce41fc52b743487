//! `/mcp/servers/:name/oauth`: tokens for a server behind a URL, sealed at the door.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::prelude::{BASE64_STANDARD, Engine as _};
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
use crate::core::model::remote::SealedValue;
use crate::core::names::UserName;
use crate::crypto::context::{GrantContext, GrantValueKind};
use crate::http::extract::idempotency::{IdempotencyHeader, key};
use crate::http::extract::json;
use crate::http::extract::path::ServerNamePath;
use crate::http::respond::json::{ApiError, Success};
use crate::http::servers::{OneServer, shown, time_to_start};
use crate::http::state::{ApiState, new_command_id};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::views::failure::ErrorBody;

/// Tokens that an authorization server gave, and the client it gave them to.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OauthBody {
    /// Whose tokens they are; without it they serve all users who have none of their own.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    /// `Bearer`, the default; no other kind can be used.
    token_type: Option<String>,
    #[schema(value_type = String)]
    access_token: Zeroizing<String>,
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Zeroizing<String>>,
    /// Seconds. Without it the access token is refreshed when the server refuses it.
    expires_in: Option<u64>,
    scopes: Option<Vec<String>>,
    client_id: String,
    #[schema(value_type = Option<String>)]
    client_secret: Option<Zeroizing<String>>,
    /// Where the authorization code was sent.
    #[schema(example = "https://platform.example.com/oauth/callback")]
    redirect_uri: String,
    /// Kept sealed, and used for nothing.
    #[schema(value_type = Option<String>)]
    code_verifier: Option<Zeroizing<String>>,
    /// Tokens that are there already stay: 409 `conflict`.
    #[serde(default)]
    if_absent: bool,
}

/// Store OAuth tokens for a streamable_http server, encrypted; they are refreshed from now on. Earlier ones are replaced.
#[utoipa::path(post, operation_id = "store_oauth_tokens", path = "/mcp/servers/{name}/oauth", tag = "servers", params(("name" = String, Path)), request_body = OauthBody,
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody), (status = 409, description = "With `ifAbsent`: one is there already, and stays", body = ErrorBody)))]
pub async fn store(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let keyed = IdempotencyHeader::of(&request)?;
    let body = json::read_json(request, facade.limits.payload).await?;
    let key = key(&facade, keyed.as_ref(), &body)?;
    let body: OauthBody = json::parse_json(&body)?;
    body.check()?;
    let server = facade.projection.catalog().server(name.as_str()).cloned();
    let server = server.ok_or_else(|| Failure::server_not_found(&name))?;
    if server.remote().is_none() {
        return Err(not_remote(&server).into());
    }
    let grant = GrantId {
        server: server.id,
        user: body.username.clone(),
    };
    let (expires_in, refreshable, if_absent) = (
        body.expires_in,
        body.refresh_token.is_some(),
        body.if_absent,
    );
    let (access, renewal) = body.halves()?;
    let mut sealed = Vec::with_capacity(2);
    let mut seal = |part, plain: &str| {
        let value = ValueId(Uuid::now_v7());
        let place = GrantContext {
            grant: &grant,
            part,
            value,
        };
        let bytes = facade.sealer.seal(place, plain).map_err(internal_error)?;
        sealed.push(SealedValue {
            value,
            sealed: BASE64_STANDARD.encode(&bytes.0),
        });
        Ok::<_, Failure>(value)
    };
    let (access, renewal) = (
        seal(GrantValueKind::Access, &access)?,
        seal(GrantValueKind::Renewal, &renewal)?,
    );
    let tokens = GrantTokens::new(access, renewal, refreshable, now_ms(), expires_in);
    let command = StoreTokens {
        id: new_command_id(),
        key,
        grant,
        server_name: name.clone(),
        tokens,
        sealed,
        if_absent,
    };
    let live = facade
        .send_to_owner(&name, &command, time_to_start(&facade, &name))
        .await?;
    shown(&facade, &name, live).await
}

impl OauthBody {
    /// No sentence repeats a value: it may be a secret.
    fn check(&self) -> Result<(), Failure> {
        if self
            .token_type
            .as_ref()
            .is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer"))
        {
            return Err(Failure::invalid("tokenType must be Bearer"));
        }
        for (field, token) in [
            ("accessToken", Some(&self.access_token)),
            ("refreshToken", self.refresh_token.as_ref()),
        ] {
            let visible = |token: &str| token.bytes().all(|b| b.is_ascii_graphic());
            if token.is_some_and(|token| {
                token.is_empty() || token.len() > MAX_TOKEN_LENGTH || !visible(token)
            }) {
                return Err(Failure::invalid(format!(
                    "{field} must be 1 to {MAX_TOKEN_LENGTH} visible ASCII characters without blanks"
                )));
            }
        }
        let texts = [
            ("clientId", Some(&self.client_id)),
            ("clientSecret", self.client_secret.as_deref()),
            ("codeVerifier", self.code_verifier.as_deref()),
        ];
        texts
            .into_iter()
            .try_for_each(|(field, text)| check_text(field, text.map(String::as_str)))?;
        if Url::parse(&self.redirect_uri).is_err() {
            return Err(Failure::invalid("redirectUri must be an absolute URL"));
        }
        check_scopes(self.scopes.as_deref())
    }

    /// The access token as its header has it, and what a new one is got with.
    fn halves(self) -> Result<(Zeroizing<String>, Zeroizing<String>), Failure> {
        let renewal = RefreshCredentials {
            refresh_token: self.refresh_token,
            client_id: self.client_id,
            client_secret: self.client_secret,
            redirect_uri: self.redirect_uri,
            code_verifier: self.code_verifier,
            scopes: self.scopes.unwrap_or_default(),
            endpoint: None,
        };
        let renewal = Zeroizing::new(serde_json::to_string(&renewal).map_err(internal_error)?);
        Ok((
            Zeroizing::new(format!("Bearer {}", &*self.access_token)),
            renewal,
        ))
    }
}
