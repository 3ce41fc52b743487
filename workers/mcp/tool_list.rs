//! `tools/list`, all pages of it, however the server is reached. Tools are kept to the byte.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::frame::request;
use super::jsonrpc::RpcError;
use super::mux::{Closed, Mux, PendingRequest, RpcReply};
use crate::core::model::tool::{Tool, Tools};

/// Pages of a tool list that are asked for at most.
const PAGES: usize = 1000;
/// Tools of one server that are kept at most.
const TOOLS: usize = 10_000;

/// All pages of `tools/list`, untouched, `limit` bytes at most: the log keeps them.
pub struct ToolListPager {
    limit: usize,
    tools: Vec<Tool>,
    seen: HashSet<String>,
    size: usize,
    left: usize,
    /// The members of the next request's `params`.
    next: Option<String>,
}

impl ToolListPager {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            tools: vec![],
            seen: HashSet::new(),
            size: 0,
            left: PAGES,
            next: Some(String::new()),
        }
    }

    /// What to ask next; nothing when all pages are there.
    pub fn next(&mut self) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        self.next.take()
    }

    /// Takes a page; nothing stands for a server that has no such method.
    pub fn take(&mut self, page: Option<Bytes>) -> Result<(), String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            #[serde(default)]
            tools: Vec<Box<RawValue>>,
            next_cursor: Option<String>,
        }
        let Some(page) = page else { return Ok(()) };
        let page: Page = serde_json::from_slice(&page)
            .map_err(|e| format!("its tools/list is no list of tools: {e}"))?;
        let tools: Vec<_> = page.tools.into_iter().map(Tool::from).collect();
        if tools.iter().any(|tool| tool.name().is_none()) {
            return Err("its tools/list has a tool without a name".into());
        }
        self.size += tools
            .iter()
            .map(|tool| tool.raw().get().len())
            .sum::<usize>();
        self.tools.extend(tools);
        if self.tools.len() > TOOLS {
            return Err(format!("it has more than {TOOLS} tools"));
        }
        if self.size > self.limit {
            return Err(format!(
                "its tools are larger than RESULT_LIMIT ({} bytes) together",
                self.limit
            ));
        }
        // A cursor that comes again would go round for ever.
        let cursor = page
            .next_cursor
            .filter(|cursor| self.seen.insert(cursor.clone()));
        self.next =
            cursor.map(|cursor| format!("\"cursor\":{}", serde_json::Value::String(cursor)));
        Ok(())
    }

    pub fn tools(self) -> Tools {
        Tools::new(self.tools)
    }
}

/// All tools of a server whose replies come back through a mux.
pub async fn list_over(mux: &Arc<Mux>, limit: usize) -> Result<Tools, String> {
    let mut pages = ToolListPager::new(limit);
    while let Some(params) = pages.next() {
        let method = "tools/list";
        let ended = |Closed| format!("it ended during {method}");
        let mut call: PendingRequest = mux.register(None).map_err(ended)?;
        call.send(request(call.id, method, &format!("{{{params}}}")))
            .await
            .map_err(ended)?;
        pages.take(method_result(method, call.answer().await.map_err(ended)?)?)?;
    }
    Ok(pages.tools())
}

/// The result of a request of ours. `None`: the server has no such method, so it offers none of it.
pub fn method_result(method: &str, answer: RpcReply) -> Result<Option<Bytes>, String> {
    const METHOD_NOT_FOUND: i64 = -32601;
    match answer {
        RpcReply::Result(result) => Ok(Some(result)),
        RpcReply::Error(error) => match serde_json::from_slice::<RpcError>(&error) {
            Ok(error) if error.code == METHOD_NOT_FOUND => Ok(None),
            Ok(error) => Err(format!(
                "it refused {method}: {} ({})",
                error.message, error.code
            )),
            Err(_) => Err(format!(
                "it refused {method} with something that is no JSON-RPC error"
            )),
        },
        RpcReply::TooLarge => Err(format!("its answer to {method} is too large")),
    }
}
