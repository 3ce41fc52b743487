//! An authorization by way of a browser: begun, so that its authorization server knows what to ask a person for, and
//! finished with the code that the browser brings back. What lies between is in the Vault, and is taken once.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::client;
use super::client::{AuthorizationServer, TokenOutcome};
use super::tokens::{AGAIN, away, put, put_json, read, unseal, url_of};
use crate::core::command::{AuthorizationStarted, BeginAuthorization, CompleteAuthorization};
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::model::grant::{
    ClientAuth, GrantId, OAuthClient, PendingAuthorization, RefreshCredentials, TokenEndpoint,
};
use crate::core::model::remote::SealedValue;
use crate::crypto::context::GrantValueKind;
use crate::ports::vault::Sealed;
use crate::telemetry::error::internal_error;
use crate::workers::context::Context;
use crate::workers::servers;

/// Requests for one exchange, all but the last not looked at by the authorization server.
const TRIES: usize = 3;
/// What an authorization server calls the scope with which it gives a refresh token.
const OFFLINE: &str = "offline_access";

pub async fn begin_authorization(
    context: Arc<Context>,
    command: BeginAuthorization,
) -> Result<AuthorizationStarted, Failure> {
    let BeginAuthorization {
        grant: id,
        redirect_uri,
        scopes,
        client,
        client_document,
    } = command;
    let server = context
        .projection
        .catalog()
        .server_by_id(id.server)
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found("of that id"))?;
    let failed =
        |why: String| Failure::new(Code::UpstreamError, format!("Server {} {why}", server.name));
    let site = client::discover(&url_of(&server)?).await.map_err(failed)?;
    let page = site
        .metadata
        .authorization_endpoint
        .as_deref()
        .and_then(|url| Url::parse(url).ok());
    let mut page = page.ok_or_else(|| {
        failed(format!(
            "has the authorization server {}, which has no page",
            site.issuer
        ))
    })?;
    client::allowed(&page, &url_of(&server)?).map_err(failed)?;
    if site
        .metadata
        .code_challenge_methods_supported
        .as_ref()
        .is_some_and(|all| !all.iter().any(|one| one == "S256"))
    {
        return Err(failed(format!(
            "has the authorization server {}, which does not know PKCE with S256",
            site.issuer
        )));
    }
    let scopes = scopes.unwrap_or_else(|| requested_scopes(&site));
    let (client, auth) = match client {
        Some(sealed) => {
            let client: OAuthClient = read(&open(&context, &id, GrantValueKind::Client, &sealed)?)?;
            let auth = site.metadata.auth(client.client_secret.is_some());
            (client, auth)
        }
        None => obtain_client(&site, &redirect_uri, &scopes, client_document)
            .await
            .map_err(failed)?,
    };

    let (verifier, state) = (random()?, random()?);
    let challenge = URL_SAFE.encode(Sha256::digest(verifier.as_bytes()));
    page.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &client.client_id)
        .append_pair("redirect_uri", &redirect_uri)
        .append_pair("state", &state)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .append_pair("resource", &site.resource);
    if !scopes.is_empty() {
        page.query_pairs_mut()
            .append_pair("scope", &scopes.join(" "));
    }
    let endpoint = TokenEndpoint {
        url: site.token_endpoint.into(),
        auth,
        resource: site.resource,
    };
    let OAuthClient {
        client_id,
        client_secret,
    } = client;
    let renewal = RefreshCredentials {
        refresh_token: None,
        client_id,
        client_secret,
        redirect_uri,
        code_verifier: Some(verifier),
        scopes,
        endpoint: Some(endpoint),
    };
    let says_issuer = site.metadata.authorization_response_iss_parameter_supported;
    let begun = PendingAuthorization {
        issuer: site.issuer,
        says_issuer,
        renewal,
    };
    let value = put_json(&context, &id, GrantValueKind::Begun, &begun).await?;
    Ok(AuthorizationStarted {
        value,
        url: page.into(),
        state: state.to_string(),
    })
}

pub async fn complete_authorization(
    context: Arc<Context>,
    command: CompleteAuthorization,
) -> Result<(), Failure> {
    let CompleteAuthorization {
        id: change,
        grant: id,
        authorization: begun,
        code,
        issuer,
    } = command;
    let server = context
        .projection
        .catalog()
        .server_by_id(id.server)
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found("of this authorization"))?;
    let used = || {
        Failure::new(
            Code::Forbidden,
            "This authorization was finished already, or is too old; begin again",
        )
    };
    let known = context
        .manager
        .sealed_store
        .find(begun)
        .await
        .map_err(away)?
        .ok_or_else(used)?;
    let PendingAuthorization {
        issuer: expected,
        says_issuer,
        mut renewal,
    } = read(&unseal(
        &context,
        &id,
        GrantValueKind::Begun,
        begun,
        &known,
    )?)?;
    // Whatever comes of it: a code is good for one exchange.
    context.vault.remove(&[begun]).await.map_err(away)?;
    // RFC 9207: or a code of one authorization server could be sent to another.
    if issuer
        .as_ref()
        .map_or(says_issuer, |issuer| *issuer != expected)
    {
        return Err(Failure::new(
            Code::Forbidden,
            "The browser came back from another authorization server; begin again",
        ));
    }
    let code = open(&context, &id, GrantValueKind::Code, &code)?;
    let failed = |why: String| {
        Failure::new(
            Code::UpstreamError,
            format!(
                "Server {} gave no tokens: its authorization server {why}",
                server.name
            ),
        )
    };
    let mut left = TRIES;
    let tokens = loop {
        left -= 1;
        match client::exchange(&renewal, &code).await {
            TokenOutcome::Tokens(tokens) => break tokens,
            TokenOutcome::Away { pause, .. } if left > 0 => {
                tokio::time::sleep(pause.unwrap_or(AGAIN)).await
            }
            TokenOutcome::Refused(why)
            | TokenOutcome::Unknown(why)
            | TokenOutcome::Away { why, .. } => {
                return Err(failed(why));
            }
        }
    };
    renewal.code_verifier = None;
    renewal.refresh_token.clone_from(&tokens.refresh_token);
    if let Some(scope) = &tokens.scope {
        renewal.scopes = scope.split_ascii_whitespace().map(str::to_owned).collect();
    }
    let tokens = put(&context, &id, &renewal, &tokens).await?;
    let done = context
        .appender
        .commit(change, Actor::Api, move |catalog| {
            crate::core::decide::grant::store_tokens(catalog, &id, tokens)
        })
        .await?;
    servers::drop_replaced(&context, &server.name, &done).await;
    Ok(())
}

/// What the server asks for, and a refresh token where that is a scope of its own.
fn requested_scopes(site: &AuthorizationServer) -> Vec<String> {
    let mut scopes = site.scopes.clone();
    let known = site
        .metadata
        .scopes_supported
        .iter()
        .any(|scope| scope == OFFLINE);
    if known && !scopes.iter().any(|scope| scope == OFFLINE) {
        scopes.push(OFFLINE.into());
    }
    scopes
}

/// Becomes a client: by a document of ours, or by registering one.
async fn obtain_client(
    site: &AuthorizationServer,
    redirect_uri: &str,
    scopes: &[String],
    document: Option<String>,
) -> Result<(OAuthClient, ClientAuth), String> {
    if let Some(client_id) =
        document.filter(|_| site.metadata.client_id_metadata_document_supported)
    {
        return Ok((
            OAuthClient {
                client_id,
                client_secret: None,
            },
            ClientAuth::None,
        ));
    }
    client::register_client(site, redirect_uri, scopes).await
}

fn open(
    context: &Context,
    id: &GrantId,
    part: GrantValueKind,
    given: &SealedValue,
) -> Result<Zeroizing<String>, Failure> {
    let sealed = BASE64_STANDARD
        .decode(&given.sealed)
        .map_err(|_| Failure::invalid("sealed must be base64"))?;
    unseal(context, id, part, given.value, &Sealed(sealed.into()))
}

/// 256 random bits.
fn random() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *bytes).map_err(internal_error)?;
    Ok(Zeroizing::new(URL_SAFE.encode(*bytes)))
}
