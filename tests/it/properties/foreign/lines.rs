//! Lines of MCP servers on standard output.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::{check, like, run_async, within_memory};
use mcp_api::core::mcp::input_required::ClientMethod;
use mcp_api::core::model::remote::ProtocolMode;
use mcp_api::core::model::upstream_change::ChangedPart;
use mcp_api::workers::mcp::frame::request;
use mcp_api::workers::mcp::line_reader::LineReader;
use mcp_api::workers::mcp::mux::Mux;
use mcp_api::workers::mcp::rmcp_bridge::new_bridge;
use mcp_api::workers::mcp::tool_list::ToolListPager;
use mcp_api::workers::mcp::{LogSource, LogText, NotificationSink};

/// The largest result of the client under test.
const RESULT_LIMIT: usize = 10_000;
/// The largest text that the client hands to the sink.
const LOG_LIMIT: usize = 64 * 1024;

const LINES: &[&str] = &[
    "{\"jsonrpc\":\"2.0\",\"id\":1000,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":\"1000\",\"error\":{\"code\":-32602,\"message\":\"no\",\"data\":null}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"parse\"}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\",\"params\":{}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":\"s\",\"method\":\"sampling/createMessage\",\"params\":{\"messages\":[]}}\n",
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1000,\"progress\":1}}\n",
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"hi\"}}\n",
    "[{\"id\":1000,\"result\":1},{\"method\":\"notifications/tools/list_changed\"}]\n",
    "\u{feff}{\"id\":1000.0,\"result\":{}}\r\n",
    "Listening on port 8080\n",
    "{\"id\": 1000, \"result\": NaN}\n",
];

/// Checks the size of every text, and keeps none.
struct BoundedSink;

#[async_trait::async_trait]
impl NotificationSink for BoundedSink {
    fn tools_changed(&self) {}

    fn started_again(&self) {}

    fn client_not_found(&self, _: ClientMethod) {}

    fn changed(&self, _: ChangedPart) {}

    fn log(&self, _: LogSource, text: LogText<'_>) {
        let length = match text {
            LogText::Plain(text) | LogText::Json(text) => text.len(),
            LogText::Cut(bytes) => bytes.len(),
        };
        assert!(length <= 4 * LOG_LIMIT, "a log line has {length} bytes");
    }

    fn excerpt(&self, text: &[u8], limit: usize) -> String {
        String::from_utf8_lossy(&text[..text.len().min(limit)]).into_owned()
    }

    async fn protocol_detected(&self, _: ProtocolMode) {}
}

/// Reads all output while one call waits. The output ends with `tail` times the byte `x`, without a line end.
fn read_output(output: &[u8], tail: u64) {
    run_async(async {
        let mux = Mux::new();
        let (_bridge, rmcp) = new_bridge(mux.clone());
        let mut pending = mux.register(None).expect("open");
        let frame = request(pending.id, "tools/call", "{}");
        let space = pending.reserve(frame.bytes.len()).await.expect("open");
        pending.send(frame, space).expect("open");
        mux.next_batch(&mut Vec::new()).await.expect("open");
        let reader = LineReader {
            mux: mux.clone(),
            sink: Arc::new(BoundedSink),
            result_limit: RESULT_LIMIT,
            rmcp,
            exclusive: None,
        };
        let endless = tokio::io::repeat(b'x').take(tail);
        reader.read_all(output.chain(endless)).await;
        // The call has an answer, or it knows that the connection has ended.
        let _ = pending.reply().await;
        assert!(mux.close_reason().is_some());
    });
}

#[test]
fn any_output_ends_and_costs_bounded_memory() {
    let input = || (like(LINES), prop_oneof![4 => Just(0), 1 => Just(8 << 20)]);
    check(input, |(output, tail): (Vec<u8>, u64)| {
        within_memory(output.len(), 200, || read_output(&output, tail));
    });
}

const PAGES: &[&str] = &[
    r#"{"tools":[{"name":"a","inputSchema":{"type":"object"}},null,{"name":"b"}],"nextCursor":"c"}"#,
    r#"{"tools":[{"name":"a","description":"x","annotations":{"readOnlyHint":true}}]}"#,
    r#"{"tools":null,"nextCursor":null}"#,
    r#"{"tools":[{"title":"no name"},{"name":7}],"nextCursor":""}"#,
];

#[test]
fn any_pages_of_tools_make_a_bounded_list() {
    let pages = || prop::collection::vec(like(PAGES), 1..8);
    check(pages, |pages: Vec<Vec<u8>>| {
        let input: usize = pages.iter().map(Vec::len).sum();
        within_memory(input, 200, || {
            let mut pager = ToolListPager::new(RESULT_LIMIT);
            for page in &pages {
                if pager.next_params().is_none() {
                    break;
                }
                if pager.add_page(Some(Bytes::from(page.clone()))).is_err() {
                    return;
                }
            }
            let tools = pager.finish(&BoundedSink);
            let length: usize = tools.tools.iter().map(|tool| tool.raw().get().len()).sum();
            assert!(length <= 2 * RESULT_LIMIT, "{length} bytes of tools");
        });
    });
}
