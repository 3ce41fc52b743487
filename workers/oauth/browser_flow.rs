//! Authorization in a browser: starts it at the authorization server, and completes it with the code
//! that the browser brings back. The Vault keeps the state in between, and only one callback gets it.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::client;
use super::client::{AuthorizationServer, Fetcher, TokenOutcome, TokenResponse};
use super::tokens::{
    open_value, parse_json, server_url, store_json, store_token_values, upstream_failure,
};
use crate::core::catalog::server::Server;
use crate::core::command::{AuthorizationStarted, BeginAuthorization, CompleteAuthorization};
use crate::core::decide::grant as decide;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{LeaseId, ValueId, WorkerId};
use crate::core::model::grant::{
    ClientAuth, GrantId, OAuthClient, PendingAuthorization, RefreshCredentials, TokenEndpoint,
};
use crate::core::model::remote::SealedValue;
use crate::crypto::context::GrantValueKind;
use crate::ports::vault::Sealed;
use crate::telemetry::error::{error_chain, internal_error};
use crate::time::retry::TOKEN_REQUEST;
use crate::workers::context::Context;
use crate::workers::sealed_store::store_unavailable;
use crate::workers::servers;

/// The scope with which an authorization server issues a refresh token.
const OFFLINE_ACCESS: &str = "offline_access";

/// The secrets of one authorization that the program chooses.
struct FlowSecrets {
    code_verifier: Zeroizing<String>,
    state: Zeroizing<String>,
}

/// Starts an authorization, and returns the page that the browser has to open.
///
/// # Errors
/// Fails if the server has no usable authorization server, or if that accepts no client.
pub async fn begin_authorization(
    context: Arc<Context>,
    command: BeginAuthorization,
) -> Result<AuthorizationStarted, Failure> {
    let _permit = context.oauth_limits.start(&command.grant)?;
    let server = find_server(&context, &command.grant)?;
    let server_url = server_url(&server)?;
    let fetcher = Fetcher::for_server(&server_url).await;
    let site = client::discover(fetcher, &server_url)
        .await
        .map_err(|error| upstream_failure(&server.name, &error))?;
    let page = authorization_page(&server, &server_url, &site)?;
    let scopes = command
        .scopes
        .clone()
        .unwrap_or_else(|| requested_scopes(&site));
    let (client, auth) = match &command.client {
        Some(sealed) => given_client(&context, &command.grant, sealed, &site)?,
        None => obtain_client(fetcher, &server, &server_url, &site, &command, &scopes).await?,
    };
    let secrets = FlowSecrets {
        code_verifier: random_text()?,
        state: random_text()?,
    };
    let page = page_with_request(
        page,
        &site,
        &client,
        &command.redirect_uri,
        &scopes,
        &secrets,
    );
    let state = secrets.state.to_string();
    let pending = pending_authorization(
        site,
        client,
        auth,
        command.redirect_uri,
        scopes,
        secrets.code_verifier,
    );
    let value = store_json(&context, &command.grant, GrantValueKind::Begun, &pending).await?;
    Ok(AuthorizationStarted {
        value,
        url: page.into(),
        state,
    })
}

fn find_server(context: &Context, grant: &GrantId) -> Result<Arc<Server>, Failure> {
    context
        .projection
        .catalog()
        .server_by_id(grant.server)
        .cloned()
        .ok_or_else(|| Failure::server_not_found("of this authorization"))
}

/// Returns the page of the authorization server, if the program can use it.
fn authorization_page(
    server: &Server,
    server_url: &Url,
    site: &AuthorizationServer,
) -> Result<Url, Failure> {
    let unusable = |problem: &str| {
        Failure::new(
            Code::UpstreamError,
            format!(
                "Server {} has the authorization server {}, which {problem}",
                server.name, site.issuer
            ),
        )
    };
    let page = site
        .metadata
        .authorization_endpoint
        .as_deref()
        .and_then(|url| Url::parse(url).ok())
        .ok_or_else(|| unusable("has no authorization page"))?;
    client::require_secure(&page, server_url)
        .map_err(|error| upstream_failure(&server.name, &error))?;
    if !site.metadata.may_support_s256() {
        return Err(unusable("does not support PKCE with S256"));
    }
    Ok(page)
}

/// Returns the scopes that the server asks for, and the scope of refresh tokens where it exists.
fn requested_scopes(site: &AuthorizationServer) -> Vec<String> {
    let mut scopes = site.scopes.clone();
    let supported = &site.metadata.scopes_supported;
    let is_offline = |scope: &String| scope == OFFLINE_ACCESS;
    if supported.iter().any(is_offline) && !scopes.iter().any(is_offline) {
        scopes.push(OFFLINE_ACCESS.into());
    }
    scopes
}

/// Opens the client that the caller has given.
fn given_client(
    context: &Context,
    grant: &GrantId,
    sealed: &SealedValue,
    site: &AuthorizationServer,
) -> Result<(OAuthClient, ClientAuth), Failure> {
    let text = open_argument(context, grant, GrantValueKind::Client, sealed)?;
    let client: OAuthClient = parse_json(&text)?;
    let auth = site.metadata.client_auth(client.client_secret.is_some());
    Ok((client, auth))
}

/// Returns a client without the caller's help: the document that describes this program, otherwise a
/// new registration.
async fn obtain_client(
    fetcher: Fetcher,
    server: &Server,
    server_url: &Url,
    site: &AuthorizationServer,
    command: &BeginAuthorization,
    scopes: &[String],
) -> Result<(OAuthClient, ClientAuth), Failure> {
    if let Some(document) = &command.client_document
        && site.metadata.client_id_metadata_document_supported
    {
        let client = OAuthClient {
            client_id: document.clone(),
            client_secret: None,
        };
        return Ok((client, ClientAuth::None));
    }
    client::register_client(fetcher, server_url, site, &command.redirect_uri, scopes)
        .await
        .map_err(|error| upstream_failure(&server.name, &error))
}

fn page_with_request(
    mut page: Url,
    site: &AuthorizationServer,
    client: &OAuthClient,
    redirect_uri: &str,
    scopes: &[String],
    secrets: &FlowSecrets,
) -> Url {
    let challenge = URL_SAFE.encode(Sha256::digest(secrets.code_verifier.as_bytes()));
    page.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &client.client_id)
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("state", &secrets.state)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .append_pair("resource", &site.resource);
    if !scopes.is_empty() {
        page.query_pairs_mut()
            .append_pair("scope", &scopes.join(" "));
    }
    page
}

fn pending_authorization(
    site: AuthorizationServer,
    client: OAuthClient,
    auth: ClientAuth,
    redirect_uri: String,
    scopes: Vec<String>,
    code_verifier: Zeroizing<String>,
) -> PendingAuthorization {
    PendingAuthorization {
        issuer: site.issuer,
        iss_supported: site.metadata.authorization_response_iss_parameter_supported,
        renewal: RefreshCredentials {
            refresh_token: None,
            client_id: client.client_id,
            client_secret: client.client_secret,
            redirect_uri,
            code_verifier: Some(code_verifier),
            scopes,
            endpoint: Some(TokenEndpoint {
                url: site.token_endpoint.into(),
                auth,
                resource: site.resource,
                omit_resource: false,
            }),
        },
    }
}

/// Completes an authorization: exchanges the code for tokens, and stores them.
///
/// # Errors
/// Fails if another callback has completed the authorization, if the browser comes from another
/// authorization server, or if that gives no tokens.
pub async fn complete_authorization(
    context: Arc<Context>,
    command: CompleteAuthorization,
) -> Result<(), Failure> {
    let _permit = context.oauth_limits.start(&command.grant)?;
    let grant = command.grant;
    let server = find_server(&context, &grant)?;
    let pending = take_pending(&context, &grant, command.authorization).await?;
    check_issuer(&pending, command.issuer.as_deref())?;
    let mut credentials = pending.renewal;
    let code = open_argument(&context, &grant, GrantValueKind::Code, &command.code)?;
    let tokens = exchange_code(&server, &credentials, &code).await?;
    credentials.code_verifier = None;
    credentials.refresh_token.clone_from(&tokens.refresh_token);
    if let Some(scopes) = &tokens.scopes {
        credentials.scopes.clone_from(scopes);
    }
    let tokens = store_token_values(&context, &grant, &credentials, &tokens).await?;
    let committed = context
        .appender
        .commit(command.origin.id, command.origin.actor, move |catalog| {
            decide::store_tokens(catalog, &grant, tokens)
        })
        .await?;
    servers::drop_replaced(&context, &server.name, &committed).await;
    Ok(())
}

/// Takes the pending authorization out of the Vault. A lease excludes a second callback at the same
/// moment, and the removal excludes every later one, because a code is valid for one exchange.
async fn take_pending(
    context: &Context,
    grant: &GrantId,
    value: ValueId,
) -> Result<PendingAuthorization, Failure> {
    let lease = LeaseId(value.0);
    // Two callbacks in one worker exclude each other too, because each has a holder of its own.
    let holder = WorkerId(Uuid::now_v7());
    let ttl = context.manager.limits.lease_ttl;
    let acquired = context.leases.acquire(lease, holder, ttl).await;
    if acquired.map_err(store_unavailable)?.is_none() {
        return Err(already_completed());
    }
    let taken = remove_pending(context, grant, value).await;
    if let Err(error) = context.leases.release(lease, holder).await {
        tracing::warn!(
            error = error_chain(&error),
            "cannot release the lease of an authorization; the lease expires"
        );
    }
    taken
}

async fn remove_pending(
    context: &Context,
    grant: &GrantId,
    value: ValueId,
) -> Result<PendingAuthorization, Failure> {
    let sealed = context
        .manager
        .sealed_store
        .find(value)
        .await
        .map_err(store_unavailable)?
        .ok_or_else(already_completed)?;
    let text = open_value(context, grant, GrantValueKind::Begun, value, &sealed)?;
    context
        .vault
        .remove(&[value])
        .await
        .map_err(store_unavailable)?;
    parse_json(&text)
}

fn already_completed() -> Failure {
    Failure::new(
        Code::Forbidden,
        "This authorization was finished already, or is too old; begin again",
    )
}

/// Checks that the code comes from the expected authorization server (RFC 9207). Otherwise the program
/// could send a code of one authorization server to another.
fn check_issuer(pending: &PendingAuthorization, issuer: Option<&str>) -> Result<(), Failure> {
    let is_wrong = match issuer {
        Some(issuer) => issuer != pending.issuer,
        None => pending.iss_supported,
    };
    if is_wrong {
        return Err(Failure::new(
            Code::Forbidden,
            "The browser came back from another authorization server; begin again",
        ));
    }
    Ok(())
}

async fn exchange_code(
    server: &Server,
    credentials: &RefreshCredentials,
    code: &str,
) -> Result<TokenResponse, Failure> {
    let fetcher = Fetcher::for_server(&server_url(server)?).await;
    let mut attempts = TOKEN_REQUEST.start();
    let reason = loop {
        match client::exchange(fetcher, credentials, code).await {
            TokenOutcome::Tokens(tokens) => return Ok(tokens),
            TokenOutcome::RetryLater { reason, pause } => {
                if !attempts.wait_or(pause).await {
                    break reason;
                }
            }
            TokenOutcome::Refused { reason, .. } | TokenOutcome::Indeterminate(reason) => {
                break reason;
            }
        }
    };
    Err(Failure::new(
        Code::UpstreamError,
        format!(
            "Server {} gave no tokens: its authorization server {reason}",
            server.name
        ),
    ))
}

/// Opens a sealed value that a facade has sent with the command.
fn open_argument(
    context: &Context,
    grant: &GrantId,
    part: GrantValueKind,
    given: &SealedValue,
) -> Result<Zeroizing<String>, Failure> {
    let sealed = BASE64_STANDARD
        .decode(&given.sealed)
        .map_err(|_| Failure::invalid("sealed must be base64"))?;
    open_value(context, grant, part, given.value, &Sealed(sealed.into()))
}

/// Returns 256 random bits as text.
fn random_text() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *bytes).map_err(internal_error)?;
    Ok(Zeroizing::new(URL_SAFE.encode(*bytes)))
}
