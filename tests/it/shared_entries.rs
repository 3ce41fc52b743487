//! Entries of the log that travel with hints.

use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{App, PATIENCE};
use crate::process::{KEY, Services};
use crate::wait::wait_until;
use mcp_api::adapters::store_mongo::{MongoOptions, MongoStore};
use mcp_api::crypto::keyring::{SecretsKey, open_keyring};
use mcp_api::ports::bus::EntrySigner;
use mcp_api::ports::vault::Vault;

const SUBJECT: &str = "mcp.v1.log.moved";

/// A facade and a worker, and the hint of their last change: the registration of the server `real`.
struct Observed {
    app: App,
    mongo_url: String,
    nats: async_nats::Client,
    hint: async_nats::Message,
}

impl Observed {
    async fn start() -> Self {
        let services = Services::start();
        let nats = async_nats::connect(services.nats.url())
            .await
            .expect("NATS");
        let mongo_url = services.mongo_url.clone();
        let app = App::start_on(Some(services), 1, &[]);
        app.register("first", json!({ "enabled": false }))
            .await
            .ok();
        let mut hints = nats.subscribe(SUBJECT).await.expect("a subscription");
        nats.flush().await.expect("subscribed");
        app.register("real", json!({ "enabled": false })).await.ok();
        let hint = tokio::time::timeout(PATIENCE, hints.next()).await;
        let hint = hint.expect("in time").expect("a hint");
        Self {
            app,
            mongo_url,
            nats,
            hint,
        }
    }

    /// Returns an entry that would follow: the registration of the server `made`.
    fn next_entry(&self) -> String {
        let headers = self.hint.headers.as_ref().expect("headers");
        let text = headers.get("Mcp-Entry").expect("an entry").as_str();
        let mut next: Value = serde_json::from_str(text).expect("JSON");
        let entry = &mut next["entry"];
        entry["position"] = json!(self.position() + 1);
        let previous = entry["commits"][0]["commandId"].take();
        entry["commits"][0]["commandId"] = json!(uuid::Uuid::now_v7());
        next["previous"] = previous;
        next.to_string().replace("\"real\"", "\"made\"")
    }

    fn position(&self) -> u64 {
        let payload = std::str::from_utf8(&self.hint.payload).expect("a position");
        payload.parse().expect("a position")
    }

    async fn publish(&self, entry: &str, signature: Option<String>) {
        let mut headers = self.hint.headers.clone().expect("headers");
        headers.insert("Mcp-Entry", entry);
        headers.insert("Mcp-From", "a-test");
        if let Some(signature) = signature {
            headers.insert("Mcp-Signature", signature);
        }
        let position = (self.position() + 1).to_string();
        let published = self
            .nats
            .publish_with_headers(SUBJECT, headers, position.into());
        published.await.expect("published");
        self.nats.flush().await.expect("published");
    }

    /// Returns the signature of the deployment.
    async fn sign(&self, entry: &str) -> String {
        use base64::Engine as _;
        let options = MongoOptions {
            url: self.mongo_url.clone(),
            database: "unused".into(),
            secrets: "vault".into(),
        };
        let store = MongoStore::connect(options).await.expect("MongoDB");
        let record = store.key_record(None).await.expect("an answer");
        let key = SecretsKey::new(KEY.to_owned());
        let (sealer, _) = open_keyring(&record.expect("a record"), &key, &[]).expect("a keyring");
        let signature = sealer.sign_entry(entry).expect("a signature");
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(signature)
    }
}

#[tokio::test]
async fn an_entry_without_a_valid_signature_is_not_taken() {
    let observed = Observed::start().await;
    let app = &observed.app;
    observed.publish(&observed.next_entry(), None).await;
    // Both processes read this change after the hint.
    app.register("later", json!({ "enabled": false }))
        .await
        .ok();
    app.server("real").await;
    app.get("/mcp/servers/made")
        .await
        .fails(404, "server_not_found");
}

#[tokio::test]
async fn an_entry_with_a_valid_signature_is_taken_without_a_read() {
    let observed = Observed::start().await;
    let entry = observed.next_entry();
    let signature = observed.sign(&entry).await;
    observed.publish(&entry, Some(signature)).await;
    // The log does not have this entry, so a process that shows it has not read the log.
    wait_until("the facade shows the server", async || {
        observed.app.get("/mcp/servers/made").await.status == 200
    })
    .await;
}
