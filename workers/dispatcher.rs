//! The dispatcher: receives the asks of this worker and calls the handler of each command with the permit that it needs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;

use super::context::Context;
use super::handler::{HandlerError, encode, handle};
use super::permits::ChangePermit;
use super::{
    google, jobs, keys, oauth, packages, requests, secrets, servers, tokens, tools, watch,
};
use crate::core::command::{
    BeginAuthorization, CheckPackages, Command, CompleteAuthorization, CountKeys, CreateToken,
    DeleteSecret, DeleteServer, DisableServer, DiscardDeadLetter, Disconnect, EnableServer,
    ExchangeGoogleCode, NotifyProducer, ReadJobAnswer, ReadServerLogs, ReconcileServer,
    RefreshTokens, RegisterServer, RetryDeadLetter, RevokeToken, SetSecret, StoreTokens,
    UpdateServer, UseLink, WatchResources,
};
use crate::core::failure::Failure;
use crate::core::model::server_request::AnswerRequest;
use crate::core::model::tool_call::{CallTool, RetryTool};
use crate::core::model::upstream_request::SendRequest;
use crate::ports::bus::{Ask, AskHandler, Busy, Reply};
use crate::telemetry::error::internal_error;

/// The time that a worker waits for the position of the log that the sender of an ask has seen.
const POSITION_WAIT: Duration = Duration::from_secs(2);

/// Handles the asks of this worker.
pub(super) struct Dispatcher(pub(super) Arc<Context>);

#[async_trait]
impl AskHandler for Dispatcher {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy> {
        let context = &self.0;
        let outcome = if context.projection.wait_for(ask.seen, POSITION_WAIT).await {
            let dispatched = AssertUnwindSafe(dispatch(context, ask));
            match dispatched.catch_unwind().await {
                Ok(outcome) => outcome,
                Err(_) => Err(internal_error("a worker panicked").into()),
            }
        } else {
            let behind = "The worker has not read the event log that far yet; retry";
            Err(Failure::unavailable(behind).into())
        };
        let outcome = match outcome {
            Ok(bytes) => Ok(bytes),
            Err(HandlerError::Busy) => return Err(Busy),
            Err(HandlerError::Failed(failure)) => Err(encode(&failure)),
        };
        Ok(Reply {
            position: context.projection.position(),
            outcome,
        })
    }
}

/// Handles one ask with the permit that its command needs.
async fn dispatch(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    match ask.command {
        CallTool::NAME | RetryTool::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            tools::call(context, ask).await
        }
        // The boxes keep the future of a call small, because it is moved several times.
        SendRequest::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            Box::pin(requests::send(context, ask)).await
        }
        _ => Box::pin(dispatch_other(context, ask)).await,
    }
}

/// Handles an ask that sends no request of a user.
async fn dispatch_other(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    match ask.command {
        // These asks are answered from memory or by one read, so they need no permit: a full worker still shows its
        // servers.
        ReadServerLogs::NAME => {
            handle(ask, |command| servers::logs(context.clone(), command)).await
        }
        WatchResources::NAME => {
            handle(ask, |command| {
                watch::watch_resources(context.clone(), command)
            })
            .await
        }
        ReadJobAnswer::NAME => {
            handle(ask, |command| jobs::read_answer(context.clone(), command)).await
        }
        // A call that waits for the answer holds the permits.
        AnswerRequest::NAME => {
            handle(ask, |command| {
                tools::answer_request(context.clone(), command)
            })
            .await
        }
        CheckPackages::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            handle(ask, |command| {
                packages::check_packages(context.clone(), command)
            })
            .await
        }
        ExchangeGoogleCode::NAME => {
            let _permit = context.permits.call().ok_or(HandlerError::Busy)?;
            handle(ask, |command| {
                google::exchange_code(context.clone(), command)
            })
            .await
        }
        UseLink::NAME
        | BeginAuthorization::NAME
        | CompleteAuthorization::NAME
        | RefreshTokens::NAME => dispatch_grant(context, ask).await,
        _ => {
            let permit = context.permits.change().ok_or(HandlerError::Busy)?;
            dispatch_change(context, ask, permit).await
        }
    }
}

/// Handles a command that sends requests to an authorization server. Such a request may take minutes, so the command holds
/// no change permit. `oauth_limits` limits these commands.
async fn dispatch_grant(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    use oauth::browser_flow::{begin_authorization, complete_authorization};
    let context = context.clone();
    match ask.command {
        BeginAuthorization::NAME => {
            handle(ask, |command| begin_authorization(context, command)).await
        }
        UseLink::NAME => handle(ask, |command| oauth::links::use_link(context, command)).await,
        CompleteAuthorization::NAME => {
            handle(ask, |command| complete_authorization(context, command)).await
        }
        _ => {
            handle(ask, |command: RefreshTokens| {
                oauth::refresh::refresh(context, command)
            })
            .await
        }
    }
}

/// Handles a change. The handler of a server's change drops the permit before it waits for the server.
async fn dispatch_change(
    context: &Arc<Context>,
    ask: Ask,
    permit: ChangePermit,
) -> Result<Bytes, HandlerError> {
    use jobs::dead_letters::{discard_dead_letter, retry_dead_letter};
    let context = context.clone();
    match ask.command {
        RegisterServer::NAME => {
            handle(ask, |command| servers::register(context, command, permit)).await
        }
        UpdateServer::NAME => {
            handle(ask, |command| servers::update(context, command, permit)).await
        }
        EnableServer::NAME => {
            handle(ask, |command| servers::enable(context, command, permit)).await
        }
        DisableServer::NAME => {
            handle(ask, |command| servers::disable(context, command, permit)).await
        }
        DeleteServer::NAME => {
            handle(ask, |command| servers::delete(context, command, permit)).await
        }
        ReconcileServer::NAME => {
            handle(ask, |command| servers::reconcile(context, command, permit)).await
        }
        StoreTokens::NAME => {
            handle(ask, |command| {
                oauth::tokens::store_tokens(context, command, permit)
            })
            .await
        }
        NotifyProducer::NAME => {
            handle(ask, |command| jobs::notify::notify_end(context, command)).await
        }
        RetryDeadLetter::NAME => handle(ask, |command| retry_dead_letter(context, command)).await,
        DiscardDeadLetter::NAME => {
            handle(ask, |command| discard_dead_letter(context, command)).await
        }
        CreateToken::NAME => handle(ask, |command| tokens::create(context, command)).await,
        RevokeToken::NAME => handle(ask, |command| tokens::revoke(context, command)).await,
        SetSecret::NAME => handle(ask, |command| secrets::set(context, command)).await,
        DeleteSecret::NAME => handle(ask, |command| secrets::delete(context, command)).await,
        Disconnect::NAME => handle(ask, |command| secrets::disconnect(context, command)).await,
        CountKeys::NAME => handle(ask, |_: CountKeys| keys::count_keys(context)).await,
        unknown => {
            let sentence = format!("This worker does not know the command {unknown}");
            Err(Failure::unavailable(sentence).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<'a, F>(_: impl Fn(&'a Arc<Context>, Ask) -> F) -> usize {
        size_of::<F>()
    }

    /// Each call moves this future into a box of its own. With all commands inline it had 9.6 kB, and the copies and cache
    /// misses took a tenth of the program's time.
    #[test]
    fn the_future_of_an_ask_stays_small() {
        let size = size_of_future(dispatch);
        assert!(size <= 3 * 1024, "{size}");
    }
}
