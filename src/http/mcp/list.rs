//! `tools/list`: the tools as one user sees them. A page is built once and kept as text.

use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::directory::ToolDirectory;
use super::endpoint::{Endpoint, Exchange};
use super::error::RpcError;
use super::hidden::{hidden_properties, hidden_secrets, hides_google_objects};
use super::list_cache::{ListKey, ListText};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::json_object::{ObjectWriter, text_of};
use crate::core::mcp::tool_view::ToolView;
use crate::core::mcp::version::Era;
use crate::core::names::UserName;

/// The most tools of one page.
const PAGE_TOOLS: usize = 1000;
/// The part of a list's digest in a cursor.
const CURSOR_DIGEST: usize = 12;

/// Returns the requested page of the caller's tools: the JSON object `result`.
///
/// # Errors
/// -32602 if the cursor is wrong, or if it belongs to an older list.
pub(super) fn tools_list(
    exchange: &Exchange,
    era: Era,
    cursor: Option<&RawValue>,
) -> Result<Bytes, RpcError> {
    let catalog = exchange.state.catalog();
    let servers = exchange.visible_servers(&catalog);
    let key = list_key(&servers, &exchange.user, &exchange.endpoint, era);
    let page = match cursor {
        Some(cursor) => parse_cursor(cursor, &key)?,
        None => 0,
    };
    let cache = &exchange.state.mcp().lists;
    let list = match cache.get(&key) {
        Some(list) => list,
        None => {
            let list = Arc::new(build(exchange, &catalog, &servers, era, &key));
            cache.insert(key, list.clone());
            list
        }
    };
    list.pages.get(page).cloned().ok_or_else(wrong_cursor)
}

/// Returns a digest of everything that the list depends on. Streams compare it to find changes of the list.
pub(super) fn list_key(
    servers: &[Arc<Server>],
    user: &UserName,
    endpoint: &Endpoint,
    era: Era,
) -> ListKey {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(era.as_str());
    add(if endpoint.is_all() { "all" } else { "server" });
    for server in servers {
        add(server.name.as_str());
        add(&server.tools.digest);
        add(if hides_google_objects(server) {
            "google"
        } else {
            ""
        });
        let description = server.description.as_ref();
        add(description.map_or("", |description| &description.digest));
        let mut hidden = hidden_secrets(server, user);
        hidden.sort_unstable();
        add(&hidden.len().to_string());
        for name in hidden {
            add(name);
        }
    }
    hash.finalize().into()
}

fn build(
    exchange: &Exchange,
    catalog: &Catalog,
    servers: &[Arc<Server>],
    era: Era,
    key: &ListKey,
) -> ListText {
    let directory = exchange.state.mcp().directory.get(catalog);
    let mut tools = Vec::new();
    for server in servers {
        let is_all = exchange.endpoint.is_all();
        add_tools(
            &mut tools,
            server,
            &exchange.user,
            is_all.then_some(&*directory),
            era,
        );
    }
    let pages = tools.len().div_ceil(PAGE_TOOLS).max(1);
    let page = |number: usize| {
        let first = number * PAGE_TOOLS;
        let tools = &tools[first..tools.len().min(first + PAGE_TOOLS)];
        let next = (number + 1 < pages).then(|| cursor(number + 1, key));
        page_text(tools, next, era, &exchange.server_info())
    };
    ListText {
        pages: (0..pages).map(page).collect(),
    }
}

/// Adds the tools of one server, in its order. Tools without a name cannot be called and are left out.
fn add_tools(
    tools: &mut Vec<String>,
    server: &Server,
    user: &UserName,
    directory: Option<&ToolDirectory>,
    era: Era,
) {
    let exposed = directory.map(|directory| directory.exposed_names(server.id));
    let named = server
        .tools
        .tools
        .iter()
        .filter_map(|tool| Some((tool.name()?, tool)));
    for (index, (name, tool)) in named.enumerate() {
        let view = ToolView {
            name: exposed
                .and_then(|names| names.get(index))
                .map(AsRef::as_ref),
            hidden: &hidden_properties(server, user, &name),
            era,
        };
        tools.push(view.apply(tool.raw().get()).into_owned());
    }
}

fn page_text(tools: &[String], next: Option<String>, era: Era, server_info: &str) -> Bytes {
    let mut writer =
        ObjectWriter::with_capacity(tools.iter().map(String::len).sum::<usize>() + 512);
    if era == Era::Modern {
        writer.text("resultType", "complete");
    }
    writer.raw("tools", &format!("[{}]", tools.join(",")));
    if let Some(next) = next {
        writer.text("nextCursor", &next);
    }
    if era == Era::Modern {
        super::modern::add_cache_hints(&mut writer, server_info);
    }
    writer.finish().into()
}

fn cursor(page: usize, key: &ListKey) -> String {
    let page = (page as u32).to_be_bytes();
    URL_SAFE.encode([&page[..], &key[..CURSOR_DIGEST]].concat())
}

fn parse_cursor(cursor: &RawValue, key: &ListKey) -> Result<usize, RpcError> {
    let text = text_of(cursor).ok_or_else(wrong_cursor)?;
    let bytes = URL_SAFE
        .decode(text.as_bytes())
        .map_err(|_| wrong_cursor())?;
    let (page, digest) = bytes.split_first_chunk::<4>().ok_or_else(wrong_cursor)?;
    if digest.len() != CURSOR_DIGEST {
        return Err(wrong_cursor());
    }
    if digest != &key[..CURSOR_DIGEST] {
        return Err(RpcError::wrong_params(
            "The list has changed since this cursor was made; start again without a cursor",
        ));
    }
    Ok(u32::from_be_bytes(*page) as usize)
}

fn wrong_cursor() -> RpcError {
    RpcError::wrong_params("cursor must be a nextCursor of this list")
}
