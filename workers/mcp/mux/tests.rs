//! Tests of the mux without a server.

use bytes::Bytes;

use super::*;
use crate::workers::mcp::frame::{plain, request};
use crate::workers::mcp::host::tests::RecordingListener;

async fn send(mux: &Arc<Mux>) -> PendingRequest {
    let pending = mux.register(None).expect("open");
    let frame = request(pending.id, "ping", "{}");
    let space = pending.reserve(frame.bytes.len()).await.expect("open");
    pending.send(frame, space).expect("open");
    pending
}

async fn written(mux: &Arc<Mux>) -> Vec<String> {
    let mut batch = Vec::new();
    mux.next_batch(&mut batch).await.expect("open");
    let text = |queued: &QueuedFrame| String::from_utf8(queued.frame.bytes.clone());
    batch
        .iter()
        .map(|queued| text(queued).expect("UTF-8"))
        .collect()
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let mux = Mux::new();
    let mut first = send(&mux).await;
    let mut second = send(&mux).await;
    assert_eq!(written(&mux).await.len(), 2);
    mux.complete(second.id, RpcReply::Result(Bytes::from_static(b"2")));
    mux.complete(first.id, RpcReply::TooLarge);
    mux.complete(first.id, RpcReply::TooLarge);
    assert_eq!(first.reply().await, Ok(RpcReply::TooLarge));
    assert_eq!(
        second.reply().await,
        Ok(RpcReply::Result(Bytes::from_static(b"2")))
    );
    assert_eq!(mux.calls(), 0);
}

#[tokio::test]
async fn an_unwritten_request_that_is_dropped_is_never_written() {
    let mux = Mux::new();
    drop(send(&mux).await);
    let kept = send(&mux).await;
    let lines = written(&mux).await;
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains(&format!("\"id\":{}", kept.id)),
        "{}",
        lines[0]
    );
}

#[tokio::test]
async fn a_written_request_that_is_dropped_is_cancelled() {
    let mux = Mux::new();
    let pending = send(&mux).await;
    written(&mux).await;
    let id = pending.id;
    drop(pending);
    let lines = written(&mux).await;
    assert!(
        lines[0].contains("notifications/cancelled")
            && lines[0].contains(&format!("\"requestId\":{id}")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_and_a_dropped_request_frees_its_space() {
    let mux = Mux::new();
    let large = mux.register(None).expect("open");
    let space = large.reserve(QUEUE_LIMIT).await.expect("open");
    large
        .send(request(large.id, "ping", "{}"), space)
        .expect("open");
    assert!(!mux.has_space());
    let second = mux.register(None).expect("open");
    let mut waiting = Box::pin(second.reserve(10));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(large);
    assert!(futures::poll!(&mut waiting).is_ready());
    assert!(mux.has_space());
}

#[tokio::test]
async fn the_end_wakes_everyone_and_keeps_the_first_reason() {
    let mux = Mux::new();
    let mut pending = send(&mux).await;
    mux.close("first");
    mux.close("second");
    assert_eq!(pending.reply().await, Err(Closed));
    assert_eq!(mux.send(plain(b"x".to_vec())).await, Err(Closed));
    assert!(mux.register(None).is_err());
    assert!(mux.next_batch(&mut Vec::new()).await.is_err());
    mux.closed().await;
    assert_eq!(mux.close_reason().as_deref(), Some("first"));
}

#[tokio::test]
async fn progress_reaches_its_own_request_until_the_reply() {
    let mux = Mux::new();
    let register = || {
        let listener = Arc::<RecordingListener>::default();
        let effects = ProgressEffects::of_listener(listener.clone());
        (mux.register(Some(effects)).expect("open"), listener)
    };
    let (first, progress_of_first) = register();
    let (second, progress_of_second) = register();
    let params = RawValue::from_string(r#"{"progress":1.0}"#.into()).expect("JSON");
    mux.progress(first.id, &params);
    mux.progress(second.id + 1, &params);
    mux.complete(first.id, RpcReply::TooLarge);
    mux.progress(first.id, &params);
    drop(second);
    assert_eq!(progress_of_first.received(), [r#"{"progress":1.0}"#]);
    assert!(progress_of_second.received().is_empty());
}

#[tokio::test]
async fn only_one_waiting_request_can_be_named_without_an_id() {
    let mux = Mux::new();
    let first = send(&mux).await;
    written(&mux).await;
    assert_eq!(mux.only_waiting(), Some(first.id));
    let _second = send(&mux).await;
    written(&mux).await;
    assert_eq!(mux.only_waiting(), None);
}
