//! Reads the messages of a server: replies, notifications, and requests to the client.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::protocol::ProtocolContext;
use super::transport::{
    BACKGROUND_TIMEOUT, EXCERPT, HttpTransport, OutgoingRequest, TransportError,
};
use crate::core::mcp::input_required::{ClientMethod, ELICITATION_COMPLETED, is_question};
use crate::workers::mcp::host::ClientAsker;
use crate::workers::mcp::jsonrpc::{
    LOG_LINE, RpcMessage, WRONG_QUESTION, answer_without_client, note, notify, progress_token,
    request_id, response, scan_ids, subslice,
};
use crate::workers::mcp::line_reader::reply;
use crate::workers::mcp::mux::RpcReply;

impl HttpTransport {
    /// Handles one event of a stream. Returns the reply to `request`, if the event is that reply.
    pub fn on_event(
        self: &Arc<Self>,
        context: &ProtocolContext,
        data: &Bytes,
        request: Option<&OutgoingRequest<'_>>,
    ) -> Result<Option<RpcReply>, TransportError> {
        if data.trim_ascii().is_empty() {
            // The event only has an id, after which the stream can be resumed.
            return Ok(None);
        }
        if data.trim_ascii_start().starts_with(b"[")
            && let Ok(batch) = serde_json::from_slice::<Vec<&RawValue>>(data)
        {
            let mut found = None;
            for entry in batch {
                let reply = self.on_event_message(context, &subslice(data, entry), request)?;
                found = found.or(reply);
            }
            return Ok(found);
        }
        self.on_event_message(context, data, request)
    }

    fn on_event_message(
        self: &Arc<Self>,
        context: &ProtocolContext,
        data: &Bytes,
        request: Option<&OutgoingRequest<'_>>,
    ) -> Result<Option<RpcReply>, TransportError> {
        let Ok(message) = serde_json::from_slice::<RpcMessage>(data) else {
            return self.on_broken_event(data, request);
        };
        match (message.method.as_deref(), message.id) {
            (Some("notifications/progress"), None) => {
                if let Some(request) = request
                    && let Some(progress) = request.progress
                    && let Some(params) = message.params
                    && progress_token(params) == Some(request.id)
                {
                    progress.apply(params);
                }
                Ok(None)
            }
            (Some(method), None) => {
                if method == LOG_LINE
                    && let Some(log) = request.and_then(|request| request.log)
                    && let Some(params) = message.params
                {
                    log.on_log(params);
                }
                if method == ELICITATION_COMPLETED
                    && let Some(asker) = request.and_then(|request| request.asker)
                    && let Some(params) = message.params.filter(|params| is_question(params))
                {
                    asker.elicitation_completed(params);
                }
                notify(&*self.sink, method, message.params);
                Ok(None)
            }
            (Some(method), Some(id)) => {
                let asker = request.and_then(|request| request.asker);
                match (ClientMethod::parse(method), asker) {
                    (Some(method), Some(asker)) => {
                        self.ask_client(context, asker.clone(), method, message.params, id);
                    }
                    (asked, _) => {
                        if let Some(asked) = asked {
                            self.sink.client_not_found(asked);
                        }
                        self.answer_server(context, method, id);
                    }
                }
                Ok(None)
            }
            (None, _) => Ok(request.and_then(|request| self.reply_in(request, &message, data))),
        }
    }

    fn on_broken_event(
        &self,
        data: &Bytes,
        request: Option<&OutgoingRequest<'_>>,
    ) -> Result<Option<RpcReply>, TransportError> {
        note(
            &*self.sink,
            &format!(
                "the server sent an event that is no JSON-RPC message: {}",
                self.sink.excerpt(data, EXCERPT)
            ),
        );
        match request {
            Some(request) if scan_ids(data).contains(&request.id) => Err(
                TransportError::broken_reply(request.method, "its answer is no JSON"),
            ),
            _ => Ok(None),
        }
    }

    /// Returns the reply in a body, which may be a batch (2025-03-26).
    pub fn find_reply(&self, request: &OutgoingRequest<'_>, body: &Bytes) -> Option<RpcReply> {
        if body.trim_ascii_start().starts_with(b"[") {
            let batch: Vec<RpcMessage> = serde_json::from_slice(body).ok()?;
            return batch
                .iter()
                .find_map(|message| self.reply_in(request, message, body));
        }
        self.reply_in(request, &serde_json::from_slice(body).ok()?, body)
    }

    /// Returns the reply if the message is one to this request. A server that could not read the request replies with an
    /// error without its id.
    fn reply_in(
        &self,
        request: &OutgoingRequest<'_>,
        message: &RpcMessage,
        bytes: &Bytes,
    ) -> Option<RpcReply> {
        if message.method.is_some() {
            return None;
        }
        let is_ours = match message.id {
            Some(id) => request_id(id) == Some(request.id),
            None => message
                .error
                .is_some_and(|error| error.get().starts_with('{')),
        };
        is_ours.then(|| reply(message.result, message.error, bytes, self.result_limit))
    }

    /// Answers a request of the server with the answer of the client whose call the server executes. The asker limits the
    /// number of requests and their time.
    fn ask_client(
        self: &Arc<Self>,
        context: &ProtocolContext,
        asker: Arc<dyn ClientAsker>,
        method: ClientMethod,
        params: Option<&RawValue>,
        id: &RawValue,
    ) {
        let slot = params
            .is_none_or(is_question)
            .then(|| asker.slot())
            .flatten();
        let Some(slot) = slot else {
            note(&*self.sink, WRONG_QUESTION);
            return self.answer_server(context, method.as_str(), id);
        };
        let transport = self.clone();
        let context = context.clone();
        let (params, id) = (params.map(ToOwned::to_owned), id.to_owned());
        tokio::spawn(async move {
            // The server must take the reply before the next request has room.
            let _slot = slot;
            let member = asker.answer(method, params.as_deref()).await;
            let body = response(&id, &member);
            let send = transport.send_notification(&context, "", body.into());
            tokio::time::timeout(BACKGROUND_TIMEOUT, send).await.is_ok()
        });
    }

    /// Answers a request of the server, as a client without capabilities does.
    fn answer_server(self: &Arc<Self>, context: &ProtocolContext, method: &str, id: &RawValue) {
        let Ok(permit) = self.server_requests.clone().try_acquire_owned() else {
            return note(
                &*self.sink,
                "the server sent too many requests at once; the client dropped one",
            );
        };
        let outcome = answer_without_client(method);
        let body = response(id, outcome);
        let transport = self.clone();
        let context = context.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let send = transport.send_notification(&context, "", body.into());
            tokio::time::timeout(BACKGROUND_TIMEOUT, send).await.is_ok()
        });
    }
}
