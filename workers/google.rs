//! Access to Google: a code exchanged for a user's tokens, and those given to the calls that need them.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::context::Context;
use super::secrets::OpenedSecret;
use super::tools::CallRedaction;
use super::{HandlerError, secrets, tools};
use crate::core::arguments::merge::ArgumentForm;
use crate::core::catalog::server::Server;
use crate::core::command::ExchangeGoogleCode;
use crate::core::decide::google::store_google_tokens as decide;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::google::{
    APPLICATION, EXCHANGE, TOKENS, keep_refresh_token, secret_parts, tokens,
};
use crate::core::model::tool_call::CallTool;
use crate::core::names::{BadName, SecretName, UserName};
use crate::crypto::context::{GoogleContext, GoogleValueKind};
use crate::crypto::seal::{Opener, Plaintext, SealError, Sealer};
use crate::ports::vault::{Sealed, VaultValue};
use crate::telemetry::error::internal_error;

/// What Google knows the deployment by, sealed: a call opens it as it opens a user's secrets.
pub struct Application {
    value: ValueId,
    sealed: Sealed,
}

impl Application {
    pub fn seal(credentials: &str, sealer: &Sealer) -> Option<Self> {
        let value = ValueId(Uuid::now_v7());
        let sealed = sealer
            .seal(Self::place(value, &UserName::default()), credentials)
            .map_err(internal_error)
            .ok()?;
        Some(Self { value, sealed })
    }

    fn open(&self, opener: &Opener) -> Result<Plaintext, SealError> {
        opener.open(Self::place(self.value, &UserName::default()), &self.sealed)
    }

    fn place(value: ValueId, user: &UserName) -> GoogleContext<'_> {
        GoogleContext {
            server: ServerId(Uuid::nil()),
            user,
            kind: GoogleValueKind::Application,
            value,
        }
    }
}

/// Exchanges a code and keeps the tokens: put, append, drop the old.
pub async fn connect(context: Arc<Context>, command: ExchangeGoogleCode) -> Result<(), Failure> {
    let began = Instant::now();
    let server = context
        .projection
        .catalog()
        .server_by_id(command.server)
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let place = |kind| GoogleContext {
        server: server.id,
        user: &command.user,
        kind,
        value: command.value,
    };
    let sealed = BASE64_STANDARD
        .decode(&command.sealed)
        .map_err(|_| Failure::invalid("sealed must be base64"))?;
    let args = context
        .opener
        .open(place(GoogleValueKind::Code), &Sealed(sealed.into()));
    let args = args.map_err(|_| Failure::invalid("sealed cannot be opened in its place"))?;
    let args = args.expose().map_err(internal_error)?;

    let handle = context.manager.handle(&server);
    // The server has the tokens before anybody knows what is to be hidden of its words.
    let _back = handle.log_buffer.hold_back(&handle.redactor);
    let _code = CallRedaction::parts(&handle.redactor, ValueId(Uuid::now_v7()), || code_in(args));
    let (user, name, tool) = (
        command.user.clone(),
        server.name.clone(),
        EXCHANGE.parse().map_err(internal_error)?,
    );
    let call = CallTool {
        user,
        server: name,
        tool,
        timeout_ms: None,
    };
    let request = tools::CallRequest {
        server: &server,
        command: &call,
        args,
        traceparent: None,
        start: began,
    };
    let result = tools::run(&context, &request)
        .await
        .map_err(|trouble| match trouble {
            HandlerError::Busy => {
                Failure::unavailable("Too many calls are under way; load this page again")
            }
            HandlerError::Failed(failure) => failure,
        })?;
    let mut tokens = tokens(&result).map_err(|failure| {
        let details = failure
            .details
            .as_deref()
            .map(|text| handle.redactor.mask(text));
        failure.with_details(details)
    })?;
    let _tokens = CallRedaction::parts(&handle.redactor, command.value, || secret_parts(&tokens));

    if let Ok(old) = open_tokens(&context, &server, &command.user).await {
        tokens = keep_refresh_token(tokens, old.value.expose().map_err(internal_error)?);
    }
    let sealed = context
        .manager
        .sealed_store
        .sealer
        .seal(place(GoogleValueKind::Tokens), &tokens)
        .map_err(internal_error)?;
    let values = vec![VaultValue {
        id: command.value,
        sealed,
    }];
    let (id, user) = (command.id, command.user.clone());
    let decide = move |catalog: &_| decide(catalog, &command);
    let done = context
        .appender
        .commit_with_values(id, Actor::Api, values, decide)
        .await?;
    let before = done.before.and_then(|before| {
        before
            .server_by_id(server.id)?
            .google_tokens_of(user.as_str())
    });
    if let Some(old) = before {
        secrets::drop_values(&context, &[old]).await;
    }
    Ok(())
}

fn code_in(args: &str) -> Vec<Zeroizing<String>> {
    #[derive(Deserialize)]
    struct Args {
        code: Zeroizing<String>,
    }
    serde_json::from_str::<Args>(args)
        .map(|args| vec![args.code])
        .unwrap_or_default()
}

/// Adds what lets the server act for the user at Google; it wins over secrets of the same names.
pub async fn add(
    context: &Context,
    server: &Arc<Server>,
    user: &UserName,
    secrets: &mut Vec<OpenedSecret>,
) -> Result<(), Failure> {
    let mut hidden = vec![open_tokens(context, server, user).await?];
    if let Some(application) = &context.google {
        let value = application.open(&context.opener).map_err(internal_error)?;
        hidden.push(OpenedSecret {
            name: argument(APPLICATION)?,
            id: application.value,
            value,
            form: ArgumentForm::Json,
        });
    }
    secrets.retain(|secret| hidden.iter().all(|hidden| hidden.name != secret.name));
    secrets.append(&mut hidden);
    Ok(())
}

async fn open_tokens(
    context: &Context,
    server: &Arc<Server>,
    user: &UserName,
) -> Result<OpenedSecret, Failure> {
    let missing = || {
        let link = "authorizationUrl is the page for that, and POST /auth/google/link makes a new link to it";
        let sentence = format!(
            "User {user} has not given server {} access to Google yet: {link}",
            server.name
        );
        Failure::new(Code::ReauthRequired, sentence)
    };
    let id = server.google_tokens_of(user.as_str()).ok_or_else(missing)?;
    if let Some(tokens) = open(context, server.id, user, id).await? {
        return Ok(tokens);
    }
    // They were replaced after this catalogue was read: a newer one names their successor.
    let newer = context
        .projection
        .catalog()
        .server_by_id(server.id)
        .cloned();
    let id = newer
        .and_then(|newer| newer.google_tokens_of(user.as_str()))
        .ok_or_else(missing)?;
    let tokens = open(context, server.id, user, id).await?;
    tokens.ok_or_else(|| Failure::unavailable("The access to Google was being renewed; ask again"))
}

async fn open(
    context: &Context,
    server: ServerId,
    user: &UserName,
    id: ValueId,
) -> Result<Option<OpenedSecret>, Failure> {
    let Some(sealed) = secrets::sealed(context, id).await? else {
        return Ok(None);
    };
    let place = GoogleContext {
        server,
        user,
        kind: GoogleValueKind::Tokens,
        value: id,
    };
    let value = context
        .opener
        .open(place, &sealed)
        .map_err(internal_error)?;
    context.metrics.secrets_opened.inc();
    Ok(Some(OpenedSecret {
        name: argument(TOKENS)?,
        id,
        value,
        form: ArgumentForm::Json,
    }))
}

fn argument(name: &str) -> Result<SecretName, Failure> {
    name.parse().map_err(|error: BadName| internal_error(error))
}
