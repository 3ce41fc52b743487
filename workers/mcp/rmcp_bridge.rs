//! Joins rmcp with a mux. rmcp opens the session and answers the server's requests; the mux sends the client's calls.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use rmcp::RoleClient;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ElicitationCapability, FormElicitationCapability,
    Implementation, JsonRpcMessage, ProtocolVersion, RequestId, RootsCapabilities,
    SamplingCapability, UrlElicitationCapability,
};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::frame::plain;
use super::jsonrpc::{RpcError, RpcMessage};
use super::mux::Mux;

/// Messages that wait for rmcp.
const INBOX_LIMIT: usize = 64;

/// The transport of rmcp, which carries everything except the calls of the client.
pub struct RmcpBridge {
    mux: Arc<Mux>,
    inbox: mpsc::Receiver<RxJsonRpcMessage<RoleClient>>,
    waiting: Arc<Mutex<Option<RequestId>>>,
}

/// Passes messages of the server to rmcp.
pub struct RmcpInbox {
    sender: mpsc::Sender<RxJsonRpcMessage<RoleClient>>,
    /// The request of rmcp that waits for a reply.
    waiting: Arc<Mutex<Option<RequestId>>>,
    /// The result of the first request, which is `initialize`.
    initialize: Arc<OnceLock<Bytes>>,
}

/// Why rmcp did not get a message.
#[derive(Debug, thiserror::Error)]
pub enum RmcpRefusal {
    #[error("a client does not receive such a message")]
    Unreadable(#[source] serde_json::Error),
    #[error("too many messages wait for rmcp or for the server")]
    Full,
    #[error("the server has no session that rmcp serves")]
    Gone,
}

/// Returns the two ends of a bridge.
pub fn new_bridge(mux: Arc<Mux>) -> (RmcpBridge, RmcpInbox) {
    let (sender, inbox) = mpsc::channel(INBOX_LIMIT);
    let waiting = Arc::<Mutex<Option<RequestId>>>::default();
    let bridge = RmcpBridge {
        mux,
        inbox,
        waiting: waiting.clone(),
    };
    let inbox = RmcpInbox {
        sender,
        waiting,
        initialize: Arc::default(),
    };
    (bridge, inbox)
}

/// Returns the client description that `initialize` sends. A server that may ask learns that it can.
pub fn client_config(may_ask: bool) -> ClientConfig {
    let mut capabilities = ClientCapabilities::default();
    if may_ask {
        let elicitation = ElicitationCapability::new()
            .with_form(FormElicitationCapability::new())
            .with_url(UrlElicitationCapability::new());
        capabilities.elicitation = Some(elicitation);
        capabilities.sampling = Some(SamplingCapability::default());
        capabilities.roots = Some(RootsCapabilities::default());
    }
    ClientConfig::new(
        capabilities,
        Implementation::new("mcp-api", env!("CARGO_PKG_VERSION")),
    )
    .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
}

impl Transport<RoleClient> for RmcpBridge {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        if let JsonRpcMessage::Request(request) = &item {
            *self.waiting.lock() = Some(request.id.clone());
        }
        let mux = self.mux.clone();
        async move {
            let mut bytes = serde_json::to_vec(&item)?;
            bytes.push(b'\n');
            mux.send(plain(bytes))
                .await
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        self.inbox.recv().await
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RmcpInbox {
    /// Returns the cell that gets the raw result of `initialize`.
    pub fn initialize_result(&self) -> Arc<OnceLock<Bytes>> {
        self.initialize.clone()
    }

    /// Whether rmcp serves no session.
    pub fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }

    /// Passes a reply to rmcp. Members that are `null` count as absent.
    pub fn pass(&self, message: &[u8]) -> Result<(), RmcpRefusal> {
        let mut value: Value = serde_json::from_slice(message).map_err(RmcpRefusal::Unreadable)?;
        remove_nulls(&mut value);
        if self.initialize.get().is_none() && self.waiting.lock().is_some() {
            self.keep_result(message);
        }
        self.pass_value(value)
    }

    /// Passes an error that names no request to rmcp, if a request of rmcp waits for a reply. Returns whether one does.
    pub fn fail_waiting_request(&self, error: &RawValue) -> bool {
        let Some(id) = self.waiting.lock().take() else {
            return false;
        };
        let Ok(error) = serde_json::from_str::<RpcError>(error.get()) else {
            return false;
        };
        let error = serde_json::json!({ "code": error.code, "message": error.message });
        self.pass_value(serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": error }))
            .is_ok()
    }

    fn keep_result(&self, message: &[u8]) {
        let message = serde_json::from_slice::<RpcMessage>(message);
        let result = message.ok().and_then(|message| match message.method {
            None => message.result,
            Some(_) => None,
        });
        if let Some(result) = result {
            let result = Bytes::copy_from_slice(result.get().as_bytes());
            self.initialize.get_or_init(|| result);
        }
    }

    fn pass_value(&self, message: Value) -> Result<(), RmcpRefusal> {
        let message: RxJsonRpcMessage<RoleClient> =
            serde_json::from_value(message).map_err(RmcpRefusal::Unreadable)?;
        if matches!(
            message,
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)
        ) {
            self.waiting.lock().take();
        }
        self.sender
            .try_send(message)
            .map_err(|refused| match refused {
                TrySendError::Full(_) => RmcpRefusal::Full,
                TrySendError::Closed(_) => RmcpRefusal::Gone,
            })
    }
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(remove_nulls);
        }
        Value::Array(entries) => entries.iter_mut().for_each(remove_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn null_members_of_an_initialize_result_count_as_absent() {
        let (mut bridge, inbox) = new_bridge(Mux::new());
        let message = json!({ "jsonrpc": "2.0", "id": 0, "result": {
            "protocolVersion": "2025-06-18", "capabilities": { "tools": null, "logging": null },
            "serverInfo": { "name": "s", "version": "1", "title": null }, "instructions": null,
        } });
        inbox.pass(message.to_string().as_bytes()).expect("passed");
        let received = bridge.receive().await.expect("a message");
        assert!(
            matches!(received, JsonRpcMessage::Response(_)),
            "{received:?}"
        );
    }

    #[tokio::test]
    async fn the_raw_result_of_initialize_is_kept() {
        let mux = Mux::new();
        let (bridge, inbox) = new_bridge(mux.clone());
        let kept = inbox.initialize_result();
        let result = r#"{"protocolVersion":"2025-06-18","capabilities":{"x":1.00},"serverInfo":{"name":"s","version":"1"}}"#;
        let server = async {
            let mut batch = Vec::new();
            mux.next_batch(&mut batch)
                .await
                .expect("the initialize request");
            let reply = format!(r#"{{"jsonrpc":"2.0","id":0,"result":{result}}}"#);
            inbox.pass(reply.as_bytes()).expect("passed");
        };
        let (opened, ()) = tokio::join!(rmcp::serve_client(client_config(false), bridge), server);
        let _session = opened.expect("opened");
        assert_eq!(kept.get().expect("a result"), result.as_bytes());
    }

    #[tokio::test]
    async fn an_error_without_an_id_answers_the_waiting_handshake() {
        let mux = Mux::new();
        let (bridge, inbox) = new_bridge(mux.clone());
        let server = async {
            let mut batch = Vec::new();
            mux.next_batch(&mut batch)
                .await
                .expect("the initialize request");
            let error = r#"{"code":-32600,"message":"not today"}"#.to_owned();
            assert!(inbox.fail_waiting_request(&RawValue::from_string(error).expect("JSON")));
        };
        let (opened, ()) = tokio::join!(rmcp::serve_client(client_config(false), bridge), server);
        let error = opened.map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains("not today"), "{error}");
    }

    #[tokio::test]
    async fn requests_of_a_server_that_does_not_read_are_dropped() {
        let (_bridge, inbox) = new_bridge(Mux::new());
        let ping = br#"{"jsonrpc":"2.0","id":"q","method":"ping"}"#;
        for _ in 0..INBOX_LIMIT {
            inbox.pass(ping).expect("space");
        }
        assert!(matches!(inbox.pass(ping), Err(RmcpRefusal::Full)));
    }
}
