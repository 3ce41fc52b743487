//! The form of the unit tests of decisions: given events, when a command, then events or a failure.

use crate::core::catalog::Catalog;
use crate::core::event::Event;
use crate::core::failure::{Code, Failure};

/// Starts a test with a catalog that holds the events. Each event has a position of its own.
pub(super) fn given(events: impl IntoIterator<Item = Event>) -> Given {
    let mut catalog = Catalog::default();
    for event in events {
        catalog.position = catalog.position.next();
        catalog.apply(&event);
    }
    Given { catalog }
}

/// The catalog before the decision.
pub(super) struct Given {
    pub(super) catalog: Catalog,
}

impl Given {
    pub(super) fn when<D: Into<Decision>>(self, decide: impl FnOnce(&Catalog) -> D) -> Outcome {
        let Decision(result) = decide(&self.catalog).into();
        Outcome {
            catalog: self.catalog,
            result,
        }
    }
}

/// The result of a decision that can fail, or of one that cannot.
pub(super) struct Decision(Result<Vec<Event>, Failure>);

impl From<Vec<Event>> for Decision {
    fn from(events: Vec<Event>) -> Self {
        Self(Ok(events))
    }
}

impl From<Result<Vec<Event>, Failure>> for Decision {
    fn from(result: Result<Vec<Event>, Failure>) -> Self {
        Self(result)
    }
}

/// The result of a decision, and the catalog before it.
pub(super) struct Outcome {
    catalog: Catalog,
    result: Result<Vec<Event>, Failure>,
}

impl Outcome {
    /// Checks the events of the decision and returns the catalog after them.
    pub(super) fn then(self, expected: impl IntoIterator<Item = Event>) -> Catalog {
        let events = self.result.expect("the decision succeeds");
        assert_eq!(events, Vec::from_iter(expected));
        let mut catalog = self.catalog;
        catalog.position = catalog.position.next();
        for event in &events {
            catalog.apply(event);
        }
        catalog
    }

    /// Checks that the decision changes nothing.
    pub(super) fn then_nothing(self) {
        self.then([]);
    }

    /// Checks the code of the failure and returns the failure.
    pub(super) fn then_fails_with(self, code: Code) -> Failure {
        let failure = self.result.expect_err("the decision fails");
        assert_eq!(failure.code, code, "{failure}");
        failure
    }
}

/// Events and values of tests. A number stands for an id.
pub(super) mod samples {
    use uuid::Uuid;

    use crate::core::command::ChangeOrigin;
    use crate::core::event::{
        Actor, Event, GrantStored, JobAccepted, JobFinished, JobStarted, PackageInstalled,
        SecretSet, ServerRegistered, ServerToolsDiscovered, TokenRevoked,
    };
    use crate::core::ids::{CommandId, Digest, JobId, ServerId, TokenId, ValueId, WorkerId};
    use crate::core::model::caller::{AllowedServers, Scope};
    use crate::core::model::grant::{GrantId, GrantTokens};
    use crate::core::model::idempotency::IdempotencyKey;
    use crate::core::model::job::JobState;
    use crate::core::model::package::{Package, Source};
    use crate::core::model::remote::Remote;
    use crate::core::model::server::{ServerConfig, Transport};
    use crate::core::model::token::{Token, TokenDigest};
    use crate::core::model::tool::{Tool, Tools};

    pub(in crate::core::decide) const URL: &str = "https://h/mcp";

    pub(in crate::core::decide) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(
        text: &str,
    ) -> T {
        text.parse().expect("a name")
    }

    pub(in crate::core::decide) fn uuid(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    pub(in crate::core::decide) fn value(number: u128) -> ValueId {
        ValueId(uuid(number))
    }

    pub(in crate::core::decide) fn command_id(number: u128) -> CommandId {
        CommandId(uuid(number))
    }

    pub(in crate::core::decide) fn origin(number: u128) -> ChangeOrigin {
        ChangeOrigin::new(command_id(number), Actor::default())
    }

    pub(in crate::core::decide) fn token_id(number: u128) -> TokenId {
        TokenId(uuid(number))
    }

    /// Returns a token with the scope `tools` that ana made at the time 1.
    pub(in crate::core::decide) fn token(number: u128, user: &str) -> Token {
        Token {
            id: token_id(number),
            user: name(user),
            digest: TokenDigest([0; 32]),
            scopes: [Scope::Tools].into_iter().collect(),
            servers: AllowedServers::All,
            label: None,
            created_at: 1,
            expires_at: None,
            created_by: Some(name("ana")),
            maker: None,
        }
    }

    pub(in crate::core::decide) fn token_revoked(number: u128, user: &str, at: u64) -> Event {
        TokenRevoked {
            token: token_id(number),
            user: name(user),
            at,
        }
        .into()
    }

    pub(in crate::core::decide) fn job_id(number: u128) -> JobId {
        JobId(uuid(number))
    }

    pub(in crate::core::decide) fn worker(number: u128) -> WorkerId {
        WorkerId(uuid(number))
    }

    /// Returns the id of the server with this name: the sum of its bytes.
    pub(in crate::core::decide) fn server_id(server: &str) -> ServerId {
        ServerId(uuid(server.bytes().map(u128::from).sum()))
    }

    pub(in crate::core::decide) fn key(scope: u128, body: u128) -> IdempotencyKey {
        IdempotencyKey {
            scope: Digest(uuid(scope)),
            body: Digest(uuid(body)),
            user: None,
        }
    }

    pub(in crate::core::decide) fn stdio_config(command: &str) -> ServerConfig {
        ServerConfig::new(Transport::Stdio {
            command: command.into(),
            args: vec![],
            env: [].into(),
        })
    }

    pub(in crate::core::decide) fn remote_config(url: &str) -> ServerConfig {
        ServerConfig::new(Transport::StreamableHttp(Remote::new(url)))
    }

    /// Registers an enabled server.
    pub(in crate::core::decide) fn registered(server: &str, config: ServerConfig) -> Event {
        ServerRegistered {
            server: server_id(server),
            name: name(server),
            config,
            enabled: true,
        }
        .into()
    }

    /// Registers an enabled stdio server.
    pub(in crate::core::decide) fn server_registered(server: &str) -> Event {
        registered(server, stdio_config("npx"))
    }

    /// Returns an npm package without a recipe.
    pub(in crate::core::decide) fn package(version: &str) -> Package {
        Package {
            name: name("mcp-memory"),
            version: version.into(),
            source: Source::Node,
            recipe: None,
        }
    }

    pub(in crate::core::decide) fn package_installed(server: &str, version: &str) -> Event {
        PackageInstalled {
            server: server_id(server),
            name: name(server),
            package: package(version),
            at: 1,
        }
        .into()
    }

    /// Registers an enabled server at [`URL`].
    pub(in crate::core::decide) fn remote_registered(server: &str) -> Event {
        registered(server, remote_config(URL))
    }

    pub(in crate::core::decide) fn tools(tools: &[&str]) -> Tools {
        let tools = tools.iter().map(|text| {
            let raw = serde_json::value::RawValue::from_string((*text).to_owned());
            Tool::from(raw.expect("JSON"))
        });
        Tools::new(tools.collect())
    }

    pub(in crate::core::decide) fn tools_discovered(server: &str, texts: &[&str]) -> Event {
        let tools = tools(texts);
        ServerToolsDiscovered {
            server: server_id(server),
            name: name(server),
            digest: tools.digest,
            tools: tools.tools,
            fencing_token: None,
        }
        .into()
    }

    pub(in crate::core::decide) fn secret_set(
        server: &str,
        user: &str,
        secret: &str,
        number: u128,
    ) -> Event {
        SecretSet {
            server: server_id(server),
            server_name: name(server),
            user: Some(name(user)),
            name: name(secret),
            value: value(number),
        }
        .into()
    }

    pub(in crate::core::decide) fn grant_id(server: &str, user: Option<&str>) -> GrantId {
        GrantId {
            server: server_id(server),
            user: user.map(name),
        }
    }

    /// Returns tokens whose access token has the id `access`.
    pub(in crate::core::decide) fn tokens(access: u128) -> GrantTokens {
        GrantTokens::new(value(access), value(access + 1), true, 0, None)
    }

    pub(in crate::core::decide) fn grant_stored(
        server: &str,
        user: Option<&str>,
        access: u128,
    ) -> Event {
        GrantStored {
            server: server_id(server),
            server_name: name(server),
            user: user.map(name),
            tokens: tokens(access),
        }
        .into()
    }

    /// Accepts a call of the tool `t` of the server `s`.
    pub(in crate::core::decide) fn job_accepted(number: u128, user: &str) -> JobAccepted {
        JobAccepted {
            job: job_id(number),
            user: name(user),
            command: "tools.call".into(),
            server: Some(name("s")),
            tool: Some(name("t")),
            arguments: value(number),
            key: None,
            token: None,
        }
    }

    pub(in crate::core::decide) fn job_started(number: u128, attempt: u32, by: u128) -> Event {
        JobStarted {
            job: job_id(number),
            attempt,
            worker: worker(by),
        }
        .into()
    }

    pub(in crate::core::decide) fn job_finished(
        number: u128,
        state: JobState,
        answer: Option<u128>,
        until: u64,
    ) -> Event {
        JobFinished {
            job: job_id(number),
            state,
            answer: answer.map(value),
            until,
        }
        .into()
    }
}
