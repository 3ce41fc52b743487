//! Access to Google: exchanges a code for the tokens of a user, and adds the tokens to the calls that
//! need them.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::context::Context;
use super::credentials::arguments::OpenedArgument;
use super::handler::HandlerError;
use super::tools::CallRedaction;
use super::{secrets, tools};
use crate::core::arguments::merge::ArgumentForm;
use crate::core::catalog::server::Server;
use crate::core::command::{ChangeOrigin, ExchangeGoogleCode};
use crate::core::decide::google::store_google_tokens;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{ServerId, ValueId};
use crate::core::model::google::{
    APPLICATION, EXCHANGE, TOKENS, keep_refresh_token, secret_parts, tokens,
};
use crate::core::names::{ToolName, UserName};
use crate::crypto::context::{GoogleContext, GoogleValueKind};
use crate::crypto::seal::{Opener, Plaintext, SealError, Sealer};
use crate::ports::vault::{Sealed, VaultValue};
use crate::telemetry::error::internal_error;
use crate::time::clock::monotonic;

/// The credentials of this deployment at Google, sealed in memory. A call opens them like a secret.
pub struct Application {
    value: ValueId,
    sealed: Sealed,
}

impl Application {
    /// Seals the credentials. Returns `None` if they cannot be sealed.
    pub fn seal(credentials: &str, sealer: &Sealer) -> Option<Self> {
        let value = ValueId(Uuid::now_v7());
        let sealed = sealer
            .seal(
                application_context(value, &UserName::default()),
                credentials,
            )
            .map_err(internal_error)
            .ok()?;
        Some(Self { value, sealed })
    }

    fn open(&self, opener: &Opener) -> Result<Plaintext, SealError> {
        let user = UserName::default();
        opener.open(application_context(self.value, &user), &self.sealed)
    }
}

fn application_context(value: ValueId, user: &UserName) -> GoogleContext<'_> {
    GoogleContext {
        server: ServerId(Uuid::nil()),
        user,
        kind: GoogleValueKind::Application,
        value,
    }
}

/// Exchanges a code with a tool of the server, stores the tokens, and removes the old tokens.
///
/// # Errors
/// Fails if the server gives no tokens, or if the store is unavailable.
pub(super) async fn exchange_code(
    context: Arc<Context>,
    command: ExchangeGoogleCode,
) -> Result<(), Failure> {
    let server = context
        .projection
        .catalog()
        .server_by_id(command.server)
        .cloned()
        .ok_or_else(|| Failure::server_not_found(&command.server_name))?;
    let arguments = open_arguments(&context, &server, &command)?;
    let arguments = arguments.expose().map_err(internal_error)?;

    let handle = context.manager.handle(&server);
    // The server knows the tokens before the redactor does, so its output waits for the redactor.
    let _held_output = handle.log_buffer.hold_back(&handle.redactor);
    let _hidden_code = CallRedaction::parts(&handle.redactor, ValueId(Uuid::now_v7()), || {
        code_in(arguments)
    });
    let result = call_exchange_tool(&context, &server, &command.user, arguments).await?;
    let mut tokens = tokens(&result).map_err(|failure| {
        let details = failure
            .details
            .as_deref()
            .map(|text| handle.redactor.mask(text));
        failure.with_details(details)
    })?;
    let _hidden_tokens =
        CallRedaction::parts(&handle.redactor, command.value, || secret_parts(&tokens));
    // Google sends a refresh token with the first consent only.
    if let Ok(old) = open_tokens(&context, &server, &command.user).await {
        tokens = keep_refresh_token(tokens, old.value.value().map_err(internal_error)?);
    }
    store_tokens(&context, &server, command, &tokens).await
}

fn open_arguments(
    context: &Context,
    server: &Server,
    command: &ExchangeGoogleCode,
) -> Result<Plaintext, Failure> {
    let sealed = BASE64_STANDARD
        .decode(&command.sealed)
        .map_err(|_| Failure::invalid("sealed must be base64"))?;
    let code_context = GoogleContext {
        server: server.id,
        user: &command.user,
        kind: GoogleValueKind::Code,
        value: command.value,
    };
    context
        .opener
        .open(code_context, &Sealed(sealed.into()))
        .map_err(|_| Failure::invalid("sealed cannot be opened in its context"))
}

/// Calls the tool with which the server exchanges a code, and returns its result.
async fn call_exchange_tool(
    context: &Arc<Context>,
    server: &Arc<Server>,
    user: &UserName,
    arguments: &str,
) -> Result<Bytes, Failure> {
    let tool: ToolName = EXCHANGE.parse().map_err(internal_error)?;
    let request = tools::CallRequest {
        client: None,
        input: "",
        interim: None,
        server,
        user,
        operation: tools::Operation::Tool {
            tool: &tool,
            args: arguments,
        },
        timeout_ms: None,
        traceparent: None,
        meta: None,
        start: monotonic(),
    };
    let result = tools::run(context, &request).await;
    result.map_err(|error| match error {
        HandlerError::Busy => {
            Failure::unavailable("The worker runs too many calls; load this page again in a moment")
        }
        HandlerError::Failed(failure) => failure,
    })
}

/// Returns the code in the arguments of the tool.
fn code_in(arguments: &str) -> Vec<Zeroizing<String>> {
    #[derive(Deserialize)]
    struct Arguments {
        code: Zeroizing<String>,
    }
    serde_json::from_str::<Arguments>(arguments)
        .map(|arguments| vec![arguments.code])
        .unwrap_or_default()
}

async fn store_tokens(
    context: &Context,
    server: &Server,
    command: ExchangeGoogleCode,
    tokens: &str,
) -> Result<(), Failure> {
    let tokens_context = GoogleContext {
        server: server.id,
        user: &command.user,
        kind: GoogleValueKind::Tokens,
        value: command.value,
    };
    let sealer = &context.manager.sealed_store.sealer;
    let sealed = sealer
        .seal(tokens_context, tokens)
        .map_err(internal_error)?;
    let values = vec![VaultValue {
        id: command.value,
        sealed,
    }];
    let ChangeOrigin { id, actor, .. } = command.origin.clone();
    let user = command.user.clone();
    let decide = move |catalog: &_| store_google_tokens(catalog, &command);
    let committed = context
        .appender
        .commit_with_values(id, actor, values, decide)
        .await?;
    let old_tokens = committed
        .before
        .as_ref()
        .and_then(|before| before.server_by_id(server.id))
        .and_then(|server| server.google_tokens_of(user.as_str()));
    secrets::drop_values(context, old_tokens.as_slice()).await;
    Ok(())
}

/// Adds the tokens of the user and the credentials of the deployment to a call. They replace secrets
/// with their names.
///
/// # Errors
/// Fails with `reauth_required` if the user has no tokens.
pub(super) async fn add_google_arguments(
    context: &Context,
    server: &Arc<Server>,
    user: &UserName,
    arguments: &mut Vec<OpenedArgument>,
) -> Result<(), Failure> {
    let mut added = vec![open_tokens(context, server, user).await?];
    if let Some(application) = &context.google {
        let value = application.open(&context.opener).map_err(internal_error)?;
        added.push(OpenedArgument {
            target: APPLICATION.to_owned(),
            id: application.value,
            value: value.into(),
            form: ArgumentForm::Json,
        });
    }
    arguments.retain(|argument| added.iter().all(|added| added.target != argument.target));
    arguments.append(&mut added);
    Ok(())
}

async fn open_tokens(
    context: &Context,
    server: &Arc<Server>,
    user: &UserName,
) -> Result<OpenedArgument, Failure> {
    let missing = || missing_tokens(server, user);
    let value = server.google_tokens_of(user.as_str()).ok_or_else(missing)?;
    if let Some(tokens) = open_value(context, server.id, user, value).await? {
        return Ok(tokens);
    }
    // New tokens have replaced these after this catalog was read.
    let value = context
        .projection
        .catalog()
        .server_by_id(server.id)
        .and_then(|server| server.google_tokens_of(user.as_str()))
        .ok_or_else(missing)?;
    let tokens = open_value(context, server.id, user, value).await?;
    tokens.ok_or_else(|| {
        Failure::unavailable("Other tokens are replacing these tokens; retry in a moment")
    })
}

fn missing_tokens(server: &Server, user: &UserName) -> Failure {
    Failure::new(
        Code::ReauthRequired,
        format!(
            "User {user} has not given server {} access to Google yet: authorizationUrl is the page for that, and POST /auth/google/link makes a new link to it",
            server.name
        ),
    )
}

async fn open_value(
    context: &Context,
    server: ServerId,
    user: &UserName,
    value: ValueId,
) -> Result<Option<OpenedArgument>, Failure> {
    let Some(sealed) = context.manager.sealed_store.cached(value).await? else {
        return Ok(None);
    };
    let tokens_context = GoogleContext {
        server,
        user,
        kind: GoogleValueKind::Tokens,
        value,
    };
    let opened = context
        .opener
        .open(tokens_context, &sealed)
        .map_err(internal_error)?;
    context.metrics.secrets_opened.inc();
    Ok(Some(OpenedArgument {
        target: TOKENS.to_owned(),
        id: value,
        value: opened.into(),
        form: ArgumentForm::Json,
    }))
}
