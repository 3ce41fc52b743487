//! `subscriptions/listen` of 2026-07-28: a request whose answer is a stream of the notifications that it asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::event;
use super::dispatch::Reply;
use super::endpoint::Exchange;
use super::envelope::Params;
use super::error::RpcError;
use super::listen::{self, StreamContent};
use super::notices::{ListKind, NoticeWriter, WantedLists};
use super::session_memory::{MAX_STREAM_URIS, too_many_resources};
use super::watched::StreamResources;
use crate::core::failure::Failure;
use crate::core::json_object::{Members, ObjectWriter};
use crate::core::mcp::version::Era;
use crate::core::model::upstream_change::MAX_WATCHED_URI;

/// The notifications that a client subscribes to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    tools_list_changed: bool,
    #[serde(default)]
    prompts_list_changed: bool,
    #[serde(default)]
    resources_list_changed: bool,
    #[serde(default)]
    resource_subscriptions: BTreeSet<Arc<str>>,
}

impl Wanted {
    /// Parses the member `notifications`.
    ///
    /// # Errors
    /// -32602 if it is no object, or if a member has another type.
    fn parse(params: &Params<'_>) -> Result<Self, RpcError> {
        params
            .notifications
            .filter(|wanted| Members::parse(wanted.get()).is_some())
            .and_then(|wanted| serde_json::from_str(wanted.get()).ok())
            .ok_or_else(|| {
                RpcError::wrong_params(
                    "notifications must be an object with Booleans, such as toolsListChanged, and with the list of URIs \
                     resourceSubscriptions",
                )
            })
    }

    /// Returns the resources that servers report changes of.
    ///
    /// # Errors
    /// `unavailable` if the stream or this facade watches too many resources.
    fn resources(&self, exchange: &Exchange) -> Result<StreamResources, Failure> {
        let mut uris = self.resource_subscriptions.clone();
        uris.retain(|uri| uri.len() <= MAX_WATCHED_URI);
        if uris.len() > MAX_STREAM_URIS {
            return Err(too_many_resources());
        }
        StreamResources::fixed(exchange, &uris)
    }

    /// Returns the lists that the endpoint declares.
    fn lists(&self, exchange: &Exchange) -> WantedLists {
        let declares = |kind: ListKind| !exchange.servers_with(kind.capability()).is_empty();
        WantedLists {
            tools: self.tools_list_changed,
            prompts: self.prompts_list_changed && declares(ListKind::Prompts),
            resources: self.resources_list_changed && declares(ListKind::Resources),
        }
    }
}

/// Opens the stream of `subscriptions/listen`.
///
/// # Errors
/// -32602 if `notifications` is wrong.
pub(super) fn subscribe(
    exchange: &Arc<Exchange>,
    id: &RawValue,
    params: &Params<'_>,
) -> Result<Reply, RpcError> {
    let wanted = Wanted::parse(params)?;
    if !exchange.accepted.events {
        return Ok(Reply::NotAcceptable);
    }
    let permit = exchange.state.mcp().streams.open(&exchange.user, None);
    let opened = permit.and_then(|permit| Ok((permit, wanted.resources(exchange)?)));
    let (permit, resources) = match opened {
        Ok(opened) => opened,
        Err(failure) => return Ok(Reply::Failed(failure)),
    };
    let id = id.get();
    let lists = wanted.lists(exchange);
    let honoured = honoured(lists, &resources);
    let meta = format!(r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
    let acknowledged = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{honoured},{meta}}}}}"#
    );
    let closing =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete",{meta}}}}}"#);
    let content = StreamContent {
        opening: Some(event(acknowledged.as_bytes())),
        lists,
        resources,
        writer: NoticeWriter {
            subscription: Some(id.to_owned()),
        },
        closing: Some(event(closing.as_bytes())),
    };
    Ok(Reply::Stream(listen::open(
        exchange.clone(),
        Era::Modern,
        content,
        permit,
    )))
}

/// Returns the notifications that the stream will carry: a JSON object.
fn honoured(lists: WantedLists, resources: &StreamResources) -> String {
    let mut writer = ObjectWriter::with_capacity(128);
    for kind in [ListKind::Tools, ListKind::Prompts, ListKind::Resources] {
        if lists.has(kind) {
            writer.raw(&format!("{}ListChanged", kind.capability()), "true");
        }
    }
    let uris: Vec<_> = resources.client_uris().collect();
    if !uris.is_empty() {
        writer.raw("resourceSubscriptions", &json!(uris).to_string());
    }
    writer.finish()
}
