//! Prompts, resources and completion at the endpoint of all servers: lists of all of them, and the way back from an exposed
//! name or URI to its server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use serde_json::value::RawValue;

use super::error::RpcError;
use super::request::{ClientRequest, raw};
use super::resource_uri::find_resource;
use crate::core::catalog::server::Server;
use crate::core::json_object::{Members, ObjectWriter, text_of};
use crate::core::mcp::names::{exposed_names, plain_name};
use crate::core::mcp::uris::{prefix_result, uri_prefix, with_prefix, with_text};
use crate::core::mcp::version::Era;
use crate::core::model::upstream_request::RequestMethod;

/// Servers that are asked for their lists at the same time.
const LISTS_AT_ONCE: usize = 16;
/// The longest time for the list of one server.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// The largest number of pages of one server.
const MAX_PAGES: usize = 100;
/// The largest number of entries of one server.
const MAX_ENTRIES: usize = 10_000;
/// The largest list of one server in bytes.
const MAX_SERVER_BYTES: usize = 4 << 20;
/// The largest list of all servers in bytes.
const MAX_BYTES: usize = 16 << 20;

/// Executes a request.
///
/// # Errors
/// The JSON-RPC error for the client.
pub(super) async fn handle(request: &ClientRequest) -> Result<Bytes, RpcError> {
    match request.method {
        RequestMethod::ListPrompts => list(request, "prompts", "name").await,
        RequestMethod::ListResources => list(request, "resources", "uri").await,
        RequestMethod::ListResourceTemplates => {
            list(request, "resourceTemplates", "uriTemplate").await
        }
        RequestMethod::GetPrompt => get_prompt(request).await,
        RequestMethod::ReadResource => read_resource(request).await,
        RequestMethod::Complete => complete(request).await,
    }
}

/// The entries of one server, or `None` if the server did not list them in time, or not within the limits above.
struct ServerList {
    server: Arc<Server>,
    entries: Option<Vec<Box<RawValue>>>,
}

/// Lists the entries of all servers. A server whose list cannot be had, or has no room, is left out and named in `_meta`.
async fn list(
    request: &ClientRequest,
    member: &str,
    exposed_member: &str,
) -> Result<Bytes, RpcError> {
    if Members::parse(request.params.get()).is_some_and(|params| params.get("cursor").is_some()) {
        return Err(RpcError::wrong_params(
            "cursor cannot be used, because the list has one page",
        ));
    }
    let mut exposed = Vec::new();
    let mut missing = Vec::new();
    let mut size = 0;
    for list in list_all(request, member).await {
        let entries = list.entries.as_deref();
        let own = entries.map(|entries| expose(request, &list, entries, exposed_member));
        let own_size = |own: &Vec<String>| own.iter().map(String::len).sum::<usize>();
        match own.filter(|own| size + own_size(own) <= MAX_BYTES) {
            Some(own) => {
                size += own_size(&own);
                exposed.extend(own);
            }
            None => missing.push(list.server.name.clone()),
        }
    }
    let mut writer = ObjectWriter::with_capacity(size + 256);
    if request.era == Era::Modern {
        writer.text("resultType", "complete");
    }
    writer.raw(member, &format!("[{}]", exposed.join(",")));
    if request.era == Era::Modern {
        let ttl = if missing.is_empty() {
            super::modern::TTL_MS
        } else {
            "0"
        };
        writer.raw("ttlMs", ttl);
        writer.text("cacheScope", "private");
    }
    if !missing.is_empty() {
        let meta = json!({ "mcp-api/missing": missing });
        writer.raw("_meta", &meta.to_string());
    }
    Ok(writer.finish().into())
}

/// Returns the entries of one server with exposed names or URIs.
fn expose(
    request: &ClientRequest,
    list: &ServerList,
    entries: &[Box<RawValue>],
    member: &str,
) -> Vec<String> {
    if member != "name" {
        let prefix = uri_prefix(list.server.name.as_str());
        let exposed = entries.iter();
        return exposed
            .filter_map(|entry| with_prefix(entry.get(), member, &prefix))
            .collect();
    }
    let named = names_of(entries);
    let pairs = named
        .iter()
        .map(|(name, _)| (list.server.name.as_str(), name.as_str()));
    let exposed = exposed_names(pairs, request.exchange.state.mcp().directory.name_limit());
    let renamed = named.iter().zip(exposed);
    renamed
        .filter_map(|((_, entry), exposed)| with_text(entry.get(), "name", |_| exposed.clone()))
        .collect()
}

fn names_of(entries: &[Box<RawValue>]) -> Vec<(String, &RawValue)> {
    let named = entries.iter().filter_map(|entry| {
        let members = Members::parse(entry.get())?;
        let name = members.get("name").and_then(text_of)?;
        Some((name.into_owned(), &**entry))
    });
    named.collect()
}

/// Asks all servers for their lists, in the order of their names.
async fn list_all(request: &ClientRequest, member: &str) -> Vec<ServerList> {
    let servers = request.exchange.servers_with(request.method.capability());
    let lists = servers.into_iter().map(async |server| {
        let entries = tokio::time::timeout(LIST_LIMIT, list_one(request, &server, member)).await;
        let entries = entries.ok().flatten();
        ServerList { server, entries }
    });
    futures::stream::iter(lists)
        .buffered(LISTS_AT_ONCE)
        .collect()
        .await
}

/// Collects the pages of one server. `None`: a page cannot be used, or the list is too long.
async fn list_one(
    request: &ClientRequest,
    server: &Arc<Server>,
    member: &str,
) -> Option<Vec<Box<RawValue>>> {
    let mut entries = Vec::new();
    let mut size = 0;
    let mut params = raw("{}".to_owned()).ok()?;
    for _ in 0..MAX_PAGES {
        let page = request.send(server, params).await.ok()?;
        size += page.len();
        let page = std::str::from_utf8(&page).ok()?;
        let members = Members::parse(page)?;
        let listed: Vec<Box<RawValue>> = serde_json::from_str(members.get(member)?.get()).ok()?;
        entries.extend(listed);
        if size > MAX_SERVER_BYTES || entries.len() > MAX_ENTRIES {
            return None;
        }
        let Some(cursor) = members
            .get("nextCursor")
            .filter(|cursor| text_of(cursor).is_some())
        else {
            return Some(entries);
        };
        let mut writer = ObjectWriter::with_capacity(64);
        writer.raw("cursor", cursor.get());
        params = raw(writer.finish()).ok()?;
    }
    None
}

async fn get_prompt(request: &ClientRequest) -> Result<Bytes, RpcError> {
    let name = text_member(request.params.get(), "name").unwrap_or_default();
    let (server, name) = find_prompt(request, &name).await?;
    let params =
        with_text(request.params.get(), "name", |_| name.clone()).ok_or_else(unknown_prompt)?;
    let result = request.send(&server, raw(params)?).await?;
    Ok(prefixed(&server, result))
}

/// Finds the prompt with an exposed name, or with a raw name that exactly one of the servers has. The function accepts a raw
/// name only if all servers have listed their prompts. It refuses a raw name that begins with the name of a server and `__`:
/// the caller may mean a prompt of that server.
async fn find_prompt(
    request: &ClientRequest,
    name: &str,
) -> Result<(Arc<Server>, String), RpcError> {
    let limit = request.exchange.state.mcp().directory.name_limit();
    let servers = request.exchange.servers_with("prompts");
    for server in &servers {
        if let Some(plain) = plain_name(server.name.as_str(), name, limit) {
            return Ok((server.clone(), plain.to_owned()));
        }
    }
    let lists = request.with_method(RequestMethod::ListPrompts);
    let lists = list_all(&lists, "prompts").await;
    let mut with_raw_name = Vec::new();
    let mut accepts_raw_name = !names_a_server(request, name);
    for list in &lists {
        accepts_raw_name &= list.entries.is_some();
        let named = names_of(list.entries.as_deref().unwrap_or_default());
        let pairs = named
            .iter()
            .map(|(name, _)| (list.server.name.as_str(), name.as_str()));
        let exposed = exposed_names(pairs, limit);
        for ((plain, _), exposed) in named.iter().zip(exposed) {
            if exposed == name {
                return Ok((list.server.clone(), plain.clone()));
            }
            if plain == name {
                with_raw_name.push(list.server.clone());
            }
        }
    }
    match &with_raw_name[..] {
        [server] if accepts_raw_name => Ok((server.clone(), name.to_owned())),
        _ => Err(unknown_prompt()),
    }
}

/// Returns whether a name begins with the name of a registered server, also of one that the caller may not use.
fn names_a_server(request: &ClientRequest, name: &str) -> bool {
    let catalog = request.exchange.state.catalog();
    let mut servers = catalog.servers().into_iter();
    servers.any(|server| {
        let rest = name.strip_prefix(server.name.as_str());
        rest.is_some_and(|rest| rest.starts_with("__"))
    })
}

fn unknown_prompt() -> RpcError {
    RpcError::wrong_params("No prompt has this name; prompts/list shows all names")
}

async fn read_resource(request: &ClientRequest) -> Result<Bytes, RpcError> {
    let uri = text_member(request.params.get(), "uri").unwrap_or_default();
    let found = find_resource(&request.exchange, &uri);
    let (server, uri) = found.ok_or_else(unknown_resource)?;
    let params =
        with_text(request.params.get(), "uri", |_| uri.clone()).ok_or_else(unknown_resource)?;
    let result = request.send(&server, raw(params)?).await?;
    Ok(prefixed(&server, result))
}

fn unknown_resource() -> RpcError {
    RpcError::wrong_params("No server has this resource; resources/list shows all URIs")
}

/// Completes an argument of a prompt or of a template. `ref` names it as the lists do.
async fn complete(request: &ClientRequest) -> Result<Bytes, RpcError> {
    let wrong = || RpcError::wrong_params("ref must be a ref/prompt or a ref/resource");
    let params = Members::parse(request.params.get()).ok_or_else(wrong)?;
    let reference = params.get("ref").ok_or_else(wrong)?.get();
    let (server, reference) = if let Some(name) = text_member(reference, "name") {
        let (server, name) = find_prompt(request, &name).await?;
        (server, with_text(reference, "name", |_| name.clone()))
    } else {
        let uri = text_member(reference, "uri").ok_or_else(wrong)?;
        let found = find_resource(&request.exchange, &uri);
        let (server, uri) = found.ok_or_else(unknown_resource)?;
        (server, with_text(reference, "uri", |_| uri.clone()))
    };
    let reference = reference.ok_or_else(wrong)?;
    let mut writer = ObjectWriter::with_capacity(256);
    for (key, value) in &params.0 {
        let is_reference = text_of(key).is_some_and(|key| key == "ref");
        writer.member(
            key,
            if is_reference {
                &reference
            } else {
                value.get()
            },
        );
    }
    request.send(&server, raw(writer.finish())?).await
}

fn text_member(object: &str, name: &str) -> Option<String> {
    let members = Members::parse(object)?;
    members.get(name).and_then(text_of).map(Into::into)
}

/// Adds the prefix of a server to the URIs of its result.
pub(super) fn prefixed(server: &Server, result: Bytes) -> Bytes {
    let text = std::str::from_utf8(&result).unwrap_or_default();
    match prefix_result(text, &uri_prefix(server.name.as_str())) {
        Some(prefixed) => prefixed.into(),
        None => result,
    }
}
