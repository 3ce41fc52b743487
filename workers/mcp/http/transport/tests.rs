//! Tests of requests and replies against a scripted server.

use serde_json::json;

use super::*;
use crate::workers::mcp::host::tests::{RecordingListener, RecordingSink};
use crate::workers::mcp::http::scripted_server::{ScriptedResponse, ScriptedServer, SeenRequest};

fn request(id: u64) -> OutgoingRequest<'static> {
    OutgoingRequest {
        id,
        body: json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" })
            .to_string()
            .into(),
        method: "tools/list",
        name: None,
        log: None,
        progress: None,
        asker: None,
        param_headers: vec![],
        token_is_fresh: false,
    }
}

/// Sends one request to a server that answers so, and returns the reply or the error as a text.
async fn exchange(
    script: impl Fn(&SeenRequest) -> ScriptedResponse + Send + Sync + 'static,
) -> Result<String, String> {
    let server = ScriptedServer::start(move |request| Some(script(request))).await;
    let transport = server.transport(Arc::<RecordingSink>::default());
    let context = ProtocolContext::new(None, None);
    let received = transport.send_request(&context, &request(7)).await;
    match received.map_err(|error| error.to_string())?.reply {
        RpcReply::Result(result) => Ok(String::from_utf8_lossy(&result).into_owned()),
        RpcReply::Error(error) => Ok(format!("error {}", String::from_utf8_lossy(&error))),
        RpcReply::TooLarge => Ok("too large".into()),
    }
}

#[tokio::test]
async fn json_without_a_content_type_is_read() {
    let body = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    let reply = exchange(move |_| ScriptedResponse::new(200, body)).await;
    assert_eq!(reply.as_deref(), Ok("{}"));
}

#[tokio::test]
async fn an_error_without_an_id_keeps_its_sentence() {
    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"not so"}}"#;
    for status in [200, 400, 500] {
        let reply = exchange(move |_| ScriptedResponse::json(status, body)).await;
        assert!(
            reply.as_ref().is_ok_and(|reply| reply.contains("not so")),
            "{reply:?}"
        );
    }
    let stream = format!("data: {body}\n\n");
    let reply = exchange(move |_| ScriptedResponse::stream(&stream)).await;
    assert!(
        reply.as_ref().is_ok_and(|reply| reply.contains("not so")),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_body_that_is_no_json_rpc_leaves_the_decision_to_the_status() {
    let body = r#"{"error":"Method not allowed"}"#;
    let error = exchange(move |_| ScriptedResponse::json(405, body))
        .await
        .expect_err("405");
    assert!(
        error.contains("HTTP 405") && error.contains("Method not allowed"),
        "{error}"
    );
}

#[tokio::test]
async fn an_encoding_that_cannot_be_read_is_named() {
    for content_type in ["application/json", "text/event-stream"] {
        let response = move |_: &SeenRequest| {
            ScriptedResponse::new(200, vec![0x1f, 0x8b])
                .with("content-type", content_type)
                .with("content-encoding", "zstd")
        };
        let error = exchange(response).await.expect_err("unreadable");
        assert!(error.contains("zstd"), "{error}");
    }
}

#[tokio::test]
async fn a_batch_body_and_a_batch_event_are_read() {
    let batch = r#"[{"method":"notifications/x"},{"jsonrpc":"2.0","id":7,"result":1}]"#;
    let reply = exchange(move |_| ScriptedResponse::json(200, batch)).await;
    assert_eq!(reply.as_deref(), Ok("1"));
    let stream = format!("data: {batch}\n\n");
    let reply = exchange(move |_| ScriptedResponse::stream(&stream)).await;
    assert_eq!(reply.as_deref(), Ok("1"));
}

#[tokio::test]
async fn the_client_asks_for_no_encoding() {
    let server = ScriptedServer::start(|request| Some(request.result(json!({})))).await;
    let transport = server.transport(Arc::<RecordingSink>::default());
    let context = ProtocolContext::new(None, None);
    assert!(transport.send_request(&context, &request(7)).await.is_ok());
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
    assert_eq!(server.seen()[0].body["id"], json!(7));
}

#[tokio::test]
async fn a_cut_stream_is_resumed_after_its_last_event() {
    let server = ScriptedServer::start(|request| {
        Some(match request.header("last-event-id") {
            Some("6") => ScriptedResponse::stream(
                "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"kept\"}\n\n",
            ),
            _ => ScriptedResponse::stream("id: 6\nretry: 20\ndata:\n\n"),
        })
    })
    .await;
    let transport = server.transport(Arc::<RecordingSink>::default());
    let context = ProtocolContext::new(None, None);
    let received = transport.send_request(&context, &request(7)).await;
    let reply = received
        .map_err(|error| error.to_string())
        .expect("a reply");
    assert_eq!(
        reply.reply,
        RpcReply::Result(Bytes::from_static(b"\"kept\""))
    );
}

#[tokio::test]
async fn progress_of_the_request_is_passed_on_until_the_reply() {
    let report = |token: u64, progress: &str| {
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\"progress\":{progress}}}}}\n\n"
        )
    };
    let reply = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";
    let events = [
        report(7, "1.00"),
        report(8, "2"),
        reply.into(),
        report(7, "3"),
    ]
    .concat();
    let server = ScriptedServer::start(move |_| Some(ScriptedResponse::stream(&events))).await;
    let transport = server.transport(Arc::<RecordingSink>::default());
    let listener = Arc::<RecordingListener>::default();
    let effects = ProgressEffects::of_listener(listener.clone());
    let request = OutgoingRequest {
        progress: Some(&effects),
        asker: None,
        ..request(7)
    };
    let context = ProtocolContext::new(None, None);
    let received = transport.send_request(&context, &request).await;
    let received = received
        .map_err(|error| error.to_string())
        .expect("a reply");
    assert!(matches!(received.reply, RpcReply::Result(_)));
    assert_eq!(
        listener.received(),
        [r#"{"progressToken":7,"progress":1.00}"#]
    );
}
