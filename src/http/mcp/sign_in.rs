//! A call that fails because its user has not given access yet, or has not set a required value: a client with URL
//! elicitation is asked to open the page where the user does that, and the call is then made.
//!
//! Nothing has begun when such a call fails, so making it again is no repetition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::endpoint::Exchange;
use super::input::{OpenedInput, StateScope, sign_in_state};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::stored_credentials;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{Digest, ServerId, WorkerId};
use crate::core::json_object::ObjectWriter;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::client::McpClient;
use crate::core::mcp::input_required::{ClientMethod, INPUT_REQUIRED};
use crate::core::mcp::version::Era;
use crate::core::model::server_request::{RequestAddress, ServerRequest};
use crate::core::names::UserName;
use crate::ports::interim::InterimSender;

/// The key of the request for input.
pub(super) const SIGN_IN_KEY: &str = "mcp-api_sign_in";
/// The longest time for which a user may take to open the page and give access.
const PERSON_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The most pages of one call: a server may need values, an account, and a Google account.
const MAX_PAGES: usize = 3;

/// The next step of a facade after a call that failed without access.
pub(super) enum AccessStep {
    /// The user has changed something, so the call is made again.
    Retry,
    /// The client of 2026-07-28 gets a result that asks for input.
    Ask(Bytes),
    /// The client gets the failure.
    Fail,
}

/// The calls of one request for access, and how the client is asked.
pub(super) struct SignIn<'a> {
    pub exchange: &'a Arc<Exchange>,
    pub server: &'a Arc<Server>,
    pub client: Option<McpClient>,
    /// The channel to a client with a session.
    pub interim: Option<&'a InterimSender>,
    /// The client has declined to open a page for this request.
    pub has_declined: bool,
    pages: usize,
    /// The server as it was before the newest call.
    called: Arc<Server>,
}

impl<'a> SignIn<'a> {
    pub(super) fn new(
        exchange: &'a Arc<Exchange>,
        server: &'a Arc<Server>,
        client: Option<McpClient>,
        interim: Option<&'a InterimSender>,
    ) -> Self {
        Self {
            exchange,
            server,
            client,
            interim,
            has_declined: false,
            pages: 0,
            called: server.clone(),
        }
    }

    /// Returns whether a failed call may be made again.
    pub(super) fn can_ask(&self) -> bool {
        self.client
            .is_some_and(|client| client.capabilities.has(ClientCapabilities::ELICITATION_URL))
    }

    /// Waits for the user to whom a page was shown before this request, at most for the time limit of a call.
    pub(super) async fn await_page(&mut self, input: OpenedInput) {
        let OpenedInput::SignIn { need, is_accepted } = input else {
            return;
        };
        self.has_declined = !is_accepted;
        let waiting = self
            .exchange
            .state
            .mcp()
            .sign_ins
            .begin(&self.exchange.user);
        if is_accepted && waiting.is_some() {
            let limit = Duration::from_millis(self.server.config.tool_timeout_ms());
            Box::pin(need.wait(self.exchange, self.server.id, limit)).await;
        }
    }

    /// Asks the client to open the page of a failure that names one, and waits for the user.
    pub(super) async fn step(&mut self, failure: &Failure, scope: &StateScope<'_>) -> AccessStep {
        let client = self.client.filter(|_| self.can_ask());
        let Some(need) = AccessNeed::of_failure(failure, &self.called, &self.exchange.user) else {
            return AccessStep::Fail;
        };
        let url = failure.authorization_url.as_deref();
        let (Some(link), Some(client)) = (url.or_else(|| failure.connect_url()), client) else {
            return AccessStep::Fail;
        };
        if self.has_declined || self.pages == MAX_PAGES {
            return AccessStep::Fail;
        }
        self.pages += 1;
        match client.era {
            Era::Modern => {
                let asked = self.ask_in_result(failure, link, scope, need);
                asked.map_or(AccessStep::Fail, AccessStep::Ask)
            }
            Era::Legacy => self.ask_on_stream(failure, link, need).await,
        }
    }

    fn ask_in_result(
        &self,
        failure: &Failure,
        link: &str,
        scope: &StateScope<'_>,
        need: AccessNeed,
    ) -> Option<Bytes> {
        let state = sign_in_state(self.exchange, self.server, scope, need).ok()?;
        let request = json!({
            "method": ClientMethod::Elicit.as_str(),
            "params": { "mode": "url", "message": failure.message, "url": link },
        });
        let mut writer = ObjectWriter::with_capacity(1024);
        writer.text("resultType", INPUT_REQUIRED);
        writer.raw(
            "inputRequests",
            &json!({ SIGN_IN_KEY: request }).to_string(),
        );
        writer.text("requestState", &state);
        Some(writer.finish().into())
    }

    async fn ask_on_stream(
        &mut self,
        failure: &Failure,
        link: &str,
        need: AccessNeed,
    ) -> AccessStep {
        // The waits of one user are limited.
        let wait = self
            .exchange
            .state
            .mcp()
            .sign_ins
            .begin(&self.exchange.user);
        let (Some(interim), Some(_wait)) = (self.interim, wait) else {
            return AccessStep::Fail;
        };
        let call = Uuid::new_v4();
        let params = json!({ "mode": "url", "message": failure.message, "url": link });
        let request = ServerRequest {
            address: facade_address(call),
            method: ClientMethod::Elicit.as_str().to_owned(),
            params: serde_json::value::to_raw_value(&params).ok(),
        };
        let Ok(request) = serde_json::to_vec(&request) else {
            return AccessStep::Fail;
        };
        // The client's answer may arrive at another facade, which announces a refusal as the end of this call.
        let waiting = self.exchange.state.mcp().running.add(Digest(call));
        if !interim.send_request(request.into()) {
            return AccessStep::Fail;
        }
        let given = need.wait(self.exchange, self.server.id, PERSON_LIMIT);
        if waiting.cancelled.run_until_cancelled(given).await != Some(true) {
            return AccessStep::Fail;
        }
        if let Some(server) = self.exchange.state.catalog().server_by_id(self.server.id) {
            self.called = server.clone();
        }
        AccessStep::Retry
    }
}

/// Returns the address of a request that a facade sends itself. No worker has the nil id.
fn facade_address(call: Uuid) -> RequestAddress {
    RequestAddress {
        worker: WorkerId(Uuid::nil()),
        call,
        number: 1,
    }
}

/// Returns the key of a facade's request that an address names, or `None` for a request of a worker.
pub(super) fn facade_request(address: RequestAddress) -> Option<Digest> {
    address.worker.0.is_nil().then_some(Digest(address.call))
}

/// The access that a user must give before a call can succeed. A facade signs it into the `requestState` of the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum AccessNeed {
    /// All required values.
    Values,
    /// Another grant than the one with this fingerprint.
    Grant(String),
}

impl AccessNeed {
    /// Returns the need of a failed call, as the server was before the call.
    fn of_failure(failure: &Failure, server: &Server, user: &UserName) -> Option<Self> {
        match failure.code {
            Code::CredentialRequired => Some(Self::Values),
            Code::ReauthRequired => Some(Self::Grant(grant_fingerprint(server, user))),
            _ => None,
        }
    }

    /// Returns whether a user has given what a call needs. A server that cannot be called any more ends the wait too.
    fn is_met(&self, exchange: &Exchange, server: ServerId) -> bool {
        let catalog = exchange.state.catalog();
        let user = &exchange.user;
        let Some(server) = catalog.server_by_id(server).filter(|server| server.enabled) else {
            return true;
        };
        match self {
            Self::Values => stored_credentials(server, Some(user), |_| true).is_ok(),
            Self::Grant(before) => grant_fingerprint(server, user) != *before,
        }
    }

    /// Waits until the user has given what the call needs. Returns whether that is so.
    async fn wait(&self, exchange: &Exchange, server: ServerId, limit: Duration) -> bool {
        let mut moved = exchange.state.projection().subscribe();
        let met = async {
            while !self.is_met(exchange, server) {
                if moved.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(limit, met).await.unwrap_or(false)
    }
}

/// Returns a text that changes with every grant that the user has for a server.
fn grant_fingerprint(server: &Server, user: &UserName) -> String {
    let grants = [server.grant(Some(user)), server.grant];
    let tokens = grants.map(|grant| grant.map(|grant| grant.tokens.access));
    let google = server.google_tokens_of(user.as_str());
    let ids = tokens.into_iter().chain([google]);
    let ids: Vec<_> = ids
        .map(|id| id.map_or_else(String::new, |id| id.to_string()))
        .collect();
    ids.join(" ")
}
