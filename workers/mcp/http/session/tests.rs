//! Tests of sessions against a scripted server.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::time::clock::monotonic;
use crate::workers::mcp::host::tests::RecordingSink;
use crate::workers::mcp::http::connect_http;
use crate::workers::mcp::http::open::OpenedSession;
use crate::workers::mcp::http::scripted_server::{
    RecordingStore, ScriptedResponse, ScriptedServer, SeenRequest, options, session_response,
};

/// The refusals with which servers answer an unknown session.
fn refusals() -> Vec<(u16, String)> {
    let error = |code: i64| {
        format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{code},"message":"no"}}}}"#)
    };
    let mut refusals: Vec<_> = [400, 401, 403, 404, 409, 410, 422, 500, 503]
        .into_iter()
        .map(|status| (status, String::new()))
        .collect();
    refusals.push((404, error(-32001)));
    refusals.push((500, error(-32603)));
    refusals.push((200, error(-32002)));
    refusals
}

/// Starts a server that refuses every session except the newest, which has the number of its `initialize`.
async fn forgetful_server(
    status: u16,
    body: String,
    is_forgotten: impl Fn(&SeenRequest, usize) -> bool + Send + Sync + 'static,
) -> ScriptedServer {
    let newest = AtomicUsize::new(0);
    ScriptedServer::start(move |request| {
        if request.method() == "initialize" {
            let number = newest.fetch_add(1, Ordering::SeqCst) + 1;
            return Some(session_response(request, number));
        }
        request.header("mcp-session-id")?;
        if request.method() == "notifications/initialized" {
            return None;
        }
        is_forgotten(request, newest.load(Ordering::SeqCst))
            .then(|| ScriptedResponse::json(status, &body))
    })
    .await
}

#[tokio::test]
async fn a_stored_session_that_is_refused_in_any_way_costs_one_initialize() {
    for (status, body) in refusals() {
        let server = forgetful_server(status, body.clone(), |request, _| {
            request.header("mcp-session-id") == Some("stale")
        })
        .await;
        let store = RecordingStore::with_session("stale");
        let sink = Arc::<RecordingSink>::default();
        let connected = connect_http(server.target(store.clone()), options(sink)).await;
        assert!(connected.is_ok(), "{status} {body}");
        let stale = server.seen();
        let stale = stale
            .iter()
            .filter(|seen| seen.header("mcp-session-id") == Some("stale"));
        assert_eq!(stale.count(), 1, "{status} {body}");
        assert_eq!(server.count("initialize"), 1, "{status} {body}");
        let stored = store.stored.lock().clone().expect("a session");
        assert_eq!(stored.id, "1");
    }
}

/// Opens a session and lets the server forget it.
async fn session(server: &ScriptedServer) -> Arc<HttpSession> {
    let transport = server.transport(Arc::<RecordingSink>::default());
    let session = HttpSession::new(transport, Arc::<RecordingStore>::default());
    let opened = session
        .initialize(false)
        .await
        .map_err(|error| error.to_string());
    let OpenedSession { context, .. } = opened.expect("opened");
    session.use_context(context);
    session
}

#[tokio::test]
async fn a_live_session_that_is_forgotten_is_replaced_and_the_request_goes_on() {
    for (status, body) in refusals() {
        let server = forgetful_server(status, body.clone(), |request, newest| {
            newest == 1 && request.header("mcp-session-id") == Some("1")
        })
        .await;
        let session = session(&server).await;
        let listed = session.request("tools/list", "").await;
        assert!(
            listed.is_ok_and(|result| result.is_some()),
            "{status} {body}"
        );
        assert_eq!(server.count("initialize"), 2, "{status} {body}");
    }
}

#[tokio::test]
async fn a_call_whose_session_is_unknown_under_200_goes_on() {
    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32002,"message":"no session"}}"#;
    let server = forgetful_server(200, body.into(), |request, newest| {
        newest == 1 && request.header("mcp-session-id") == Some("1")
    })
    .await;
    let session = session(&server).await;
    let call = session.message("tools/call", "{}");
    assert!(matches!(session.send(&call).await, Ok(RpcReply::Result(_))));
    assert_eq!(server.count("initialize"), 2);
}

#[tokio::test]
async fn a_tool_that_uses_the_code_of_an_unknown_session_runs_once() {
    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32002,"message":"no file"}}"#;
    let server = forgetful_server(200, body.into(), |request, _| {
        request.method() == "tools/call"
    })
    .await;
    let session = session(&server).await;
    let call = session.message("tools/call", "{}");
    assert!(matches!(session.send(&call).await, Ok(RpcReply::Error(_))));
    assert_eq!(server.count("tools/call"), 1);
    assert_eq!(server.count("initialize"), 1);
}

#[tokio::test]
async fn a_refused_call_of_a_live_session_is_an_error_and_no_new_session() {
    let server = forgetful_server(403, "not you".into(), |request, _| {
        request.method() == "tools/call"
    })
    .await;
    let session = session(&server).await;
    let call = session.message("tools/call", "{}");
    let error = session.send(&call).await.expect_err("403").to_string();
    assert!(
        error.contains("HTTP 403") && error.contains("not you"),
        "{error}"
    );
    assert_eq!(server.count("initialize"), 1);
    assert_eq!(server.count("tools/call"), 1);
}

#[tokio::test]
async fn a_call_that_may_have_run_is_never_sent_again() {
    let server = forgetful_server(500, String::new(), |request, newest| {
        newest == 1 && request.header("mcp-session-id") == Some("1")
    })
    .await;
    let session = session(&server).await;
    let reopened = session.reopened.notified();
    let call = session.message("tools/call", "{}");
    let error = session.send(&call).await.expect_err("500");
    assert!(matches!(
        error,
        TransportError::Protocol { begun: true, .. }
    ));
    assert_eq!(server.count("tools/call"), 1);
    // The check in the background opens another session for later calls.
    reopened.await;
    assert_eq!(server.count("initialize"), 2);
    let call = session.message("tools/call", "{}");
    assert!(session.send(&call).await.is_ok());
}

#[test]
fn sessions_that_do_not_last_wait_longer_and_longer() {
    let pauses: Vec<_> = (0..10)
        .map(|short| pause_after(short).as_millis())
        .collect();
    assert_eq!(pauses[..5], [0, 500, 1000, 2000, 4000]);
    assert_eq!(pauses[9], 30_000);
    let start = monotonic();
    let mut history = SessionHistory {
        opened_at: start,
        short_sessions: 3,
    };
    history.record(start + Duration::from_secs(1));
    assert_eq!(history.short_sessions, 4);
    history.record(start + Duration::from_secs(100));
    assert_eq!(history.short_sessions, 0);
}

#[tokio::test]
async fn a_session_that_does_not_last_is_not_stored() {
    let server = forgetful_server(404, String::new(), |request, newest| {
        newest < 3 && request.method() == "tools/list"
    })
    .await;
    let transport = server.transport(Arc::<RecordingSink>::default());
    let store = Arc::<RecordingStore>::default();
    let session = HttpSession::new(transport, store.clone());
    let opened = session
        .initialize(false)
        .await
        .map_err(|error| error.to_string());
    session.use_context(opened.expect("opened").context);
    assert!(session.request("tools/list", "").await.is_ok());
    assert_eq!(server.count("initialize"), 3);
    assert_eq!(store.shown.lock().as_deref(), Some("3"));
    assert_eq!(*store.writes.lock(), 0);
}
