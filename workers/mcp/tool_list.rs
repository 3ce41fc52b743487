//! `tools/list` with all its pages, for every transport. Tools keep their bytes.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::call::ConnectError;
use super::host::NotificationSink;
use super::jsonrpc::{RpcError, note, null_as_default};
use super::mux::{Closed, Mux, RpcReply};
use super::request_meta;
use crate::core::mcp::version::Era;
use crate::core::model::tool::{Tool, Tools};

/// The largest number of pages.
const MAX_PAGES: usize = 1000;
/// The largest number of tools of one server.
const MAX_TOOLS: usize = 10_000;
/// The largest cursor in bytes.
const MAX_CURSOR: usize = 64 * 1024;

/// Why a list of tools cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ToolListError {
    #[error("its tools/list is no list of tools: {0}")]
    Unreadable(#[source] serde_json::Error),
    #[error("it has more than {MAX_TOOLS} tools")]
    TooManyTools,
    #[error("its tools are larger than RESULT_LIMIT ({0} bytes) together")]
    TooLarge(usize),
    #[error("its tools/list has a cursor of more than {MAX_CURSOR} bytes")]
    CursorTooLarge,
    #[error("it refused {method}: {} ({})", .error.message, .error.code)]
    Refused {
        method: &'static str,
        error: RpcError,
    },
    #[error("it refused {method} with something that is no JSON-RPC error")]
    RefusedUnreadably { method: &'static str },
    #[error("its answer to {method} is too large")]
    AnswerTooLarge { method: &'static str },
    #[error("it ended during {method}")]
    Ended { method: &'static str },
}

impl From<ToolListError> for ConnectError {
    fn from(error: ToolListError) -> Self {
        error.to_string().into()
    }
}

/// Collects the pages of `tools/list`. All tools together have at most `limit` bytes, because the log stores them.
pub struct ToolListPager {
    limit: usize,
    tools: Vec<Tool>,
    names: HashSet<String>,
    /// Digests of the cursors, because a cursor may be large.
    cursors: HashSet<[u8; 32]>,
    size: usize,
    pages_left: usize,
    unusable: usize,
    /// The members of `params` for the next request.
    next: Option<String>,
}

impl ToolListPager {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            tools: vec![],
            names: HashSet::new(),
            cursors: HashSet::new(),
            size: 0,
            pages_left: MAX_PAGES,
            unusable: 0,
            next: Some(String::new()),
        }
    }

    /// Returns the members of `params` for the next request, or `None` after the last page.
    pub fn next_params(&mut self) -> Option<String> {
        self.pages_left = self.pages_left.checked_sub(1)?;
        self.next.take()
    }

    /// Adds a page. `None` means that the server has no method `tools/list`.
    pub fn add_page(&mut self, page: Option<Bytes>) -> Result<(), ToolListError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            #[serde(default, deserialize_with = "null_as_default")]
            tools: Vec<Option<Box<RawValue>>>,
            next_cursor: Option<Box<RawValue>>,
        }
        let Some(page) = page else { return Ok(()) };
        let page: Page = serde_json::from_slice(&page).map_err(ToolListError::Unreadable)?;
        let mut tools = Vec::with_capacity(page.tools.len());
        let mut has_new_tool = page.tools.is_empty();
        for entry in page.tools {
            let tool = entry.map(Tool::from);
            let Some((tool, name)) = tool.and_then(|tool| tool.name().map(|name| (tool, name)))
            else {
                self.unusable += 1;
                continue;
            };
            has_new_tool |= !self.names.contains(&name);
            tools.push((tool, name));
        }
        if !has_new_tool && !tools.is_empty() {
            // The server repeats a page, because it does not understand its own cursor.
            return Ok(());
        }
        for (tool, name) in tools {
            self.size += tool.raw().get().len();
            self.names.insert(name);
            self.tools.push(tool);
        }
        if self.tools.len() > MAX_TOOLS {
            return Err(ToolListError::TooManyTools);
        }
        if self.size > self.limit {
            return Err(ToolListError::TooLarge(self.limit));
        }
        self.follow_cursor(page.next_cursor.as_deref())
    }

    /// A cursor that repeats would lead to the same page without end.
    fn follow_cursor(&mut self, cursor: Option<&RawValue>) -> Result<(), ToolListError> {
        let Some(cursor) = cursor else { return Ok(()) };
        if cursor.get().len() > MAX_CURSOR {
            return Err(ToolListError::CursorTooLarge);
        }
        if self
            .cursors
            .insert(Sha256::digest(cursor.get().as_bytes()).into())
        {
            self.next = Some(format!("\"cursor\":{}", cursor.get()));
        }
        Ok(())
    }

    /// Returns all tools and logs the number of removed entries.
    pub fn finish(self, sink: &dyn NotificationSink) -> Tools {
        if self.unusable > 0 {
            note(
                sink,
                &format!(
                    "{} entries of tools/list have no name and were left out",
                    self.unusable
                ),
            );
        }
        Tools::new(self.tools)
    }
}

/// Lists all tools over a mux.
pub async fn list_over(
    mux: &Arc<Mux>,
    era: Era,
    sink: &dyn NotificationSink,
    limit: usize,
) -> Result<Tools, ToolListError> {
    const METHOD: &str = "tools/list";
    let ended = |Closed| ToolListError::Ended { method: METHOD };
    let mut pager = ToolListPager::new(limit);
    while let Some(params) = pager.next_params() {
        let params = request_meta::params(era, &params);
        let reply = mux.request(METHOD, &params).await.map_err(ended)?;
        pager.add_page(method_result(METHOD, reply)?)?;
    }
    Ok(pager.finish(sink))
}

/// Returns the result of a request that is no tool call, or `None` if the server has no such method.
pub fn method_result(
    method: &'static str,
    reply: RpcReply,
) -> Result<Option<Bytes>, ToolListError> {
    const METHOD_NOT_FOUND: i64 = -32601;
    match reply {
        RpcReply::Result(result) => Ok(Some(result)),
        RpcReply::Error(error) => match serde_json::from_slice::<RpcError>(&error) {
            Ok(error) if error.code == METHOD_NOT_FOUND => Ok(None),
            Ok(error) => Err(ToolListError::Refused { method, error }),
            Err(_) => Err(ToolListError::RefusedUnreadably { method }),
        },
        RpcReply::TooLarge => Err(ToolListError::AnswerTooLarge { method }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::RecordingSink;
    use super::*;

    /// Adds pages in order, and returns the names of the tools or the error.
    fn collect(pages: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let sink = RecordingSink::default();
        let mut pager = ToolListPager::new(1000);
        let mut pages = pages.iter();
        while pager.next_params().is_some() {
            let page = pages.next().expect("no request after the last page");
            pager
                .add_page(Some(Bytes::copy_from_slice(page.as_bytes())))
                .map_err(|error| error.to_string())?;
        }
        let tools = pager.finish(&sink);
        let names = tools.tools.iter().filter_map(Tool::name).collect();
        Ok((names, sink.lines()))
    }

    #[test]
    fn all_pages_are_followed() {
        let pages = [
            r#"{"tools":[{"name":"a"}],"nextCursor":"2"}"#,
            r#"{"tools":[{"name":"b"}],"nextCursor":null}"#,
        ];
        assert_eq!(collect(&pages).expect("tools").0, ["a", "b"]);
    }

    #[test]
    fn a_cursor_that_does_not_advance_lists_no_tool_twice() {
        let page = r#"{"tools":[{"name":"a"},{"name":"b"}],"nextCursor":"same"}"#;
        assert_eq!(collect(&[page, page]).expect("tools").0, ["a", "b"]);
    }

    #[test]
    fn a_page_that_repeats_under_new_cursors_is_dropped() {
        let pages = [
            r#"{"tools":[{"name":"a"}],"nextCursor":"1"}"#,
            r#"{"tools":[{"name":"a"}],"nextCursor":"2"}"#,
        ];
        assert_eq!(collect(&pages).expect("tools").0, ["a"]);
    }

    #[test]
    fn an_entry_without_a_name_is_left_out_and_logged() {
        let page = r#"{"tools":[null,{"name":"a"},{"title":"x"},7,{"name":null}]}"#;
        let (names, lines) = collect(&[page]).expect("tools");
        assert_eq!(names, ["a"]);
        assert!(lines[0].contains("4 entries"), "{lines:?}");
    }

    #[test]
    fn null_instead_of_a_list_is_an_empty_list() {
        assert!(collect(&[r#"{"tools":null}"#]).expect("tools").0.is_empty());
        assert!(collect(&["{}"]).expect("tools").0.is_empty());
    }

    #[test]
    fn a_cursor_above_the_limit_is_refused() {
        let page = format!(
            r#"{{"tools":[],"nextCursor":"{}"}}"#,
            "c".repeat(MAX_CURSOR)
        );
        let error = collect(&[&page]).expect_err("the cursor is too large");
        assert!(error.contains("cursor"), "{error}");
    }

    #[test]
    fn all_tools_together_have_a_limit() {
        let page = format!(r#"{{"tools":[{{"name":"{}"}}]}}"#, "n".repeat(1000));
        let error = collect(&[&page]).expect_err("the tools are too large");
        assert!(error.contains("RESULT_LIMIT"), "{error}");
    }
}
