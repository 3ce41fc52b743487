//! Tests of the reader without a server.

use std::time::Duration;

use super::*;
use crate::workers::mcp::call::ProgressEffects;
use crate::workers::mcp::frame::request;
use crate::workers::mcp::host::tests::{RecordingListener, RecordingSink};
use crate::workers::mcp::mux::PendingRequest;
use crate::workers::mcp::rmcp_bridge::{RmcpBridge, new_bridge};

struct Peer {
    reader: LineReader,
    sink: Arc<RecordingSink>,
    _bridge: RmcpBridge,
}

fn peer() -> Peer {
    let mux = Mux::new();
    let (bridge, rmcp) = new_bridge(mux.clone());
    let sink = Arc::<RecordingSink>::default();
    let reader = LineReader {
        mux,
        sink: sink.clone(),
        result_limit: 1000,
        rmcp,
        exclusive: None,
    };
    Peer {
        reader,
        sink,
        _bridge: bridge,
    }
}

impl Peer {
    /// Sends a request and marks it as written.
    async fn send(&self) -> PendingRequest {
        let mux = &self.reader.mux;
        let pending = mux.register(None).expect("open");
        let frame = request(pending.id, "tools/call", "{}");
        let space = pending.reserve(frame.bytes.len()).await.expect("open");
        pending.send(frame, space).expect("open");
        mux.next_batch(&mut Vec::new()).await.expect("open");
        pending
    }

    fn print(&self, text: impl Into<Vec<u8>>) {
        self.reader.on_line(Bytes::from(text.into()));
    }
}

async fn result(pending: &mut PendingRequest) -> String {
    match pending.reply().await.expect("a reply") {
        RpcReply::Result(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        RpcReply::Error(bytes) => format!("error {}", String::from_utf8_lossy(&bytes)),
        RpcReply::TooLarge => "too large".into(),
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_any_line_is_skipped() {
    let peer = peer();
    for _ in 0..2 {
        let mut pending = peer.send().await;
        let id = pending.id;
        peer.print(format!(
            "\u{feff}{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}"
        ));
        assert_eq!(result(&mut pending).await, "{}");
    }
    assert!(peer.sink.lines().is_empty());
}

#[tokio::test]
async fn each_message_of_a_batch_is_read() {
    let peer = peer();
    let mut first = peer.send().await;
    let mut second = peer.send().await;
    peer.print(format!(
        r#"[{{"id":{},"result":1}},{{"method":"notifications/tools/list_changed"}},{{"id":{},"result":2}}]"#,
        second.id, first.id
    ));
    assert_eq!(result(&mut first).await, "2");
    assert_eq!(result(&mut second).await, "1");
    assert_eq!(peer.sink.tools_changed(), 1);
}

#[tokio::test]
async fn each_message_of_a_line_with_several_is_read() {
    let peer = peer();
    let mut first = peer.send().await;
    let mut second = peer.send().await;
    peer.print(format!(
        r#"{{"id":{},"result":1}}{{"id":{},"result":2}}"#,
        second.id, first.id
    ));
    assert_eq!(result(&mut first).await, "2");
    assert_eq!(result(&mut second).await, "1");
    assert!(peer.sink.lines().is_empty());
}

#[tokio::test]
async fn progress_is_passed_on_until_the_reply() {
    let peer = peer();
    let listener = Arc::<RecordingListener>::default();
    let effects = ProgressEffects::of_listener(listener.clone());
    let mut pending = peer.reader.mux.register(Some(effects)).expect("open");
    let id = pending.id;
    let report = |token: &str, progress: &str| {
        peer.print(format!(
            r#"{{"method":"notifications/progress","params":{{"progressToken":{token},"progress":{progress}}}}}"#
        ));
    };
    report(&id.to_string(), "1.00");
    report(&format!("\"{id}\""), "2");
    report(&(id + 1).to_string(), "3");
    report("null", "4");
    peer.print(r#"{"method":"notifications/progress"}"#);
    peer.print(format!(r#"{{"id":{id},"result":5}}"#));
    report(&id.to_string(), "6");
    assert_eq!(result(&mut pending).await, "5");
    let expected = [
        format!(r#"{{"progressToken":{id},"progress":1.00}}"#),
        format!(r#"{{"progressToken":"{id}","progress":2}}"#),
    ];
    assert_eq!(listener.received(), expected);
}

#[tokio::test]
async fn an_error_without_an_id_fails_the_only_request() {
    let peer = peer();
    let mut pending = peer.send().await;
    peer.print(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not parsed"}}"#);
    assert!(result(&mut pending).await.contains("not parsed"));
}

#[tokio::test]
async fn an_error_without_an_id_fails_none_of_several_requests() {
    let peer = peer();
    let _first = peer.send().await;
    let _second = peer.send().await;
    peer.print(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not parsed"}}"#);
    assert_eq!(peer.reader.mux.calls(), 2);
    assert!(peer.sink.lines()[0].contains("not parsed"));
}

#[tokio::test(start_paused = true)]
async fn an_error_without_an_id_ends_no_request_soon_after_a_caller_has_left() {
    let peer = peer();
    let error = |text: &str| {
        peer.print(format!(
            r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-32700,"message":"{text}"}}}}"#
        ));
    };
    drop(peer.send().await);
    let mut of_another = peer.send().await;
    error("of the first");
    assert!(peer.sink.lines()[0].contains("of the first"));
    let id = of_another.id;
    peer.print(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":"its own"}}"#
    ));
    assert_eq!(result(&mut of_another).await, r#""its own""#);
    tokio::time::advance(Duration::from_secs(61)).await;
    for _ in 0..2 {
        let mut pending = peer.send().await;
        error("of this one");
        assert!(result(&mut pending).await.contains("of this one"));
    }
}

#[tokio::test]
async fn an_answer_to_a_left_request_makes_the_next_error_without_an_id_certain() {
    let peer = peer();
    let left = peer.send().await.id;
    peer.print(format!(r#"{{"jsonrpc":"2.0","id":{left},"result":{{}}}}"#));
    let mut next = peer.send().await;
    peer.print(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not parsed"}}"#);
    assert!(result(&mut next).await.contains("not parsed"));
}

#[test]
fn lines_that_are_no_messages_are_log_lines() {
    let peer = peer();
    for line in [
        "Required command was not provided.\r",
        "[1,2]",
        r#"{"level":"info"}"#,
    ] {
        peer.print(line);
    }
    let wanted = [
        "stdout: Required command was not provided.",
        "stdout: [1,2]",
        r#"stdout: {"level":"info"}"#,
    ];
    assert_eq!(peer.sink.lines(), wanted);
}

#[tokio::test]
async fn a_broken_reply_ends_its_request() {
    let peer = peer();
    let mut pending = peer.send().await;
    peer.print(format!(r#"{{"id": {}, "result": NaN}}"#, pending.id));
    assert_eq!(result(&mut pending).await, "null");
}

#[tokio::test]
async fn a_result_above_the_limit_is_too_large() {
    let peer = peer();
    let mut pending = peer.send().await;
    peer.print(format!(
        r#"{{"id":{},"result":"{}"}}"#,
        pending.id,
        "x".repeat(1000)
    ));
    assert_eq!(result(&mut pending).await, "too large");
}

#[tokio::test]
async fn a_line_without_a_line_end_keeps_its_two_ends() {
    let (client, server) = tokio::io::duplex(1 << 20);
    let peer = peer();
    let mut pending = peer.send().await;
    let id = pending.id;
    let text = format!(r#"{{"result":"{}","id":{id}}}"#, "x".repeat(100_000));
    let print = async move {
        let mut server = server;
        tokio::io::AsyncWriteExt::write_all(&mut server, format!("{text}\nlast").as_bytes())
            .await
            .expect("written");
    };
    let mux = peer.reader.mux.clone();
    tokio::join!(peer.reader.read_all(client), print);
    assert_eq!(result(&mut pending).await, "too large");
    assert_eq!(peer.sink.lines(), ["stdout: last"]);
    assert_eq!(mux.close_reason().as_deref(), Some("it closed its output"));
}
