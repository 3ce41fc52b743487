//! One stdio child behind the pass-throughs, its replies matched by id.
use serde::Deserialize;
use serde_json::{value::RawValue, Value};
use std::{collections::HashMap, process::Stdio, sync::{atomic::{AtomicU64, Ordering}, Arc, Mutex}};
use tokio::{io::{AsyncBufReadExt, AsyncWriteExt, BufReader}, sync::{mpsc, oneshot}};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Req<'a> { #[allow(dead_code)] username: &'a str, #[allow(dead_code)] server_name: &'a str, method_name: &'a str, #[serde(borrow)] args: &'a RawValue }

#[derive(Clone)]
pub struct Child { next: Arc<AtomicU64>, tx: mpsc::UnboundedSender<Vec<u8>>, pend: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>> }

pub async fn spawn(cmd: &str) -> Child {
    let mut c = tokio::process::Command::new(cmd).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut w = c.stdin.take().unwrap();
    let mut r = BufReader::with_capacity(1 << 16, c.stdout.take().unwrap());
    let (tx, mut rx) = mpsc::unbounded_channel::<Vec<u8>>();
    let pend: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>> = Default::default();
    tokio::spawn(async move {
        let mut many = Vec::new();
        let mut buf = Vec::new();
        while rx.recv_many(&mut many, 64).await > 0 {
            buf.clear();
            for m in many.drain(..) { buf.extend_from_slice(&m) }
            if w.write_all(&buf).await.is_err() { break }
        }
    });
    let p2 = pend.clone();
    tokio::spawn(async move {
        let _c = c;
        loop {
            let mut line = Vec::new();
            if r.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 { p2.lock().unwrap().clear(); break }
            #[derive(Deserialize)] struct Id { id: Option<u64> }
            if let Ok(Id { id: Some(id) }) = serde_json::from_slice::<Id>(&line) {
                let s = p2.lock().unwrap().remove(&id);
                if let Some(s) = s { let _ = s.send(line); }
            }
        }
    });
    let ch = Child { next: Arc::new(AtomicU64::new(1)), tx, pend };
    ch.call("initialize", r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"ref","version":"0"}}"#).await;
    let _ = ch.tx.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n".to_vec());
    ch
}

impl Child {
    async fn call(&self, method: &str, params: &str) -> Option<Vec<u8>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (s, r) = oneshot::channel();
        self.pend.lock().unwrap().insert(id, s);
        let m = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n");
        self.tx.send(m.into_bytes()).ok()?;
        tokio::time::timeout(std::time::Duration::from_secs(30), r).await.ok()?.ok()
    }
    pub async fn tool(&self, body: &[u8]) -> Option<Vec<u8>> {
        let r: Req = serde_json::from_slice(body).ok()?;
        let p = format!("{{\"name\":{},\"arguments\":{}}}", Value::from(r.method_name), r.args.get());
        let line = self.call("tools/call", &p).await?;
        #[derive(Deserialize)] struct R<'a> { #[serde(borrow)] result: Option<&'a RawValue> }
        let x: R = serde_json::from_slice(&line).ok()?;
        Some(x.result?.get().as_bytes().to_vec())
    }
}
