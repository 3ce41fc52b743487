//! The way in for jobs: what they work on is sealed and put into the Vault, and one event names it.
//!
//! It needs no worker: what nobody can carry out now waits in the log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::to_raw_value;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::cluster::membership::WorkerRegistry;
use crate::config::Limits;
use crate::core::command::Command;
use crate::core::decide::job::AcceptJob;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, Digest, JobId, ValueId};
use crate::core::model::idempotency::{IdempotencyKey, JobIdempotencyKey};
use crate::core::model::job::{Job, JobArguments, SYSTEM_USER};
use crate::core::model::tool_call::CallTool;
use crate::core::names::{ServerName, UserName};
use crate::crypto::context::{JobValueContext, JobValueKind};
use crate::crypto::seal::{SealError, Sealer};
use crate::eventlog::appender::{Appender, Committed};
use crate::eventlog::projection::Projection;
use crate::ports::vault::{Sealed, Vault, VaultValue};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;

/// How long an `Idempotency-Key` is remembered.
const KEYS: Duration = Duration::from_secs(86_400);

/// What a job is refused with that nobody could open.
const OTHER_KEY: &str =
    "The workers seal with another key than this process has; start it anew with their SECRETS_KEY";

#[derive(Clone)]
pub struct JobClient {
    pub appender: Appender,
    pub projection: Arc<Projection>,
    pub vault: Arc<dyn Vault>,
    pub sealer: Sealer,
    pub registry: Arc<WorkerRegistry>,
    pub limits: Limits,
}

/// A job at the door.
pub struct NewJob {
    pub user: UserName,
    /// The command's name.
    pub command: &'static str,
    /// The server it is about.
    pub server: Option<ServerName>,
    pub work: JobArguments,
    pub key: Option<JobIdempotencyKey>,
    pub actor: Actor,
}

/// A job that is in the log.
#[derive(Debug, Clone, Copy)]
pub struct Submitted {
    pub id: JobId,
    /// It was not there before.
    pub new: bool,
}

impl NewJob {
    /// One by which the program looks after itself.
    pub fn maintenance<C: Command>(command: &C, actor: Actor) -> Result<Self, Failure> {
        let work = JobArguments {
            call: None,
            raw: false,
            reply: None,
            body: to_raw_value(command).map_err(internal_error)?,
        };
        let user = SYSTEM_USER.parse().map_err(internal_error)?;
        Ok(Self {
            user,
            command: C::NAME,
            server: None,
            work,
            key: None,
            actor,
        })
    }
}

/// What whoever used a key is told where its job was there a moment ago.
pub fn key_expired() -> Failure {
    Failure::unavailable("What this key was used for has just expired; ask again")
}

impl JobClient {
    /// Accepts a job. One with a key that was used before is the job of that time, and one that must not begin beside
    /// another of its kind is that other.
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, Failure> {
        let (key, command) = (new.key, new.command);
        let (ids, done) = self.append_jobs(vec![new]).await?;
        if let Some(id) = ids.first().filter(|_| !done.events.is_empty()) {
            return Ok(Submitted { id: *id, new: true });
        }
        let other = done
            .before
            .as_ref()
            .and_then(|before| crate::core::decide::job::active_singleton(before, command));
        if let Some(other) = other {
            return Ok(Submitted {
                id: other.id,
                new: false,
            });
        }
        let known = key.and_then(|key| {
            self.projection
                .catalog()
                .jobs
                .of_key(key.request.scope)
                .map(|job| job.id)
        });
        let known = known.map(|id| Submitted { id, new: false });
        known.ok_or_else(key_expired)
    }

    /// Accepts jobs of one sender together. `None`: none of them, since the key of one was used before.
    pub async fn submit_all(&self, new: Vec<NewJob>) -> Result<Option<Vec<JobId>>, Failure> {
        if new.is_empty() {
            return Ok(Some(vec![]));
        }
        let (ids, done) = self.append_jobs(new).await?;
        Ok((!done.events.is_empty()).then_some(ids))
    }

    /// Their ids; none of them is accepted where nothing has happened.
    async fn append_jobs(&self, new: Vec<NewJob>) -> Result<(Vec<JobId>, Committed), Failure> {
        let actor = new.first().map_or(Actor::Worker, |new| new.actor);
        let sealed = new
            .into_iter()
            .map(|new| self.sealed(new))
            .collect::<Result<Vec<_>, _>>()?;
        let (accept, values): (Vec<_>, Vec<_>) = sealed.into_iter().unzip();
        let ids: Vec<_> = accept.iter().map(|accept| accept.job).collect();
        let arguments: Vec<_> = accept.iter().map(|accept| accept.arguments).collect();
        let first = CommandId(ids.first().map_or(Uuid::nil(), |id| id.0));
        let decide = move |catalog: &_| crate::core::decide::job::accept_jobs(catalog, &accept);
        let accepted = self
            .appender
            .commit_with_values(first, actor, values, decide)
            .await;
        // Where the store does not answer, the log may name them, now or in a moment.
        let refused = |failure: &Failure| failure.code != Code::Unavailable;
        if accepted
            .as_ref()
            .map_or_else(refused, |done| done.events.is_empty())
        {
            // What may have been put for them is not needed; should this fail, it is left to the sweep.
            let _ = self.vault.remove(&arguments).await;
        }
        Ok((ids, accepted?))
    }

    /// Seals what a job works on.
    fn sealed(&self, new: NewJob) -> Result<(AcceptJob, VaultValue), Failure> {
        let NewJob {
            user,
            command,
            server,
            work,
            key,
            ..
        } = new;
        let (job, arguments) = (JobId(Uuid::now_v7()), ValueId(Uuid::now_v7()));
        let text = Zeroizing::new(serde_json::to_string(&work).map_err(internal_error)?);
        let place = JobValueContext {
            job,
            part: JobValueKind::Arguments,
            value: arguments,
        };
        let sealed = self.seal(place, &text)?;
        let tool = work.call.as_ref().map(|CallTool { tool, .. }| tool.clone());
        let most_waiting = self.limits.waiting_jobs;
        let accept = AcceptJob {
            job,
            user,
            command,
            server,
            tool,
            arguments,
            key,
            most_waiting,
        };
        Ok((
            accept,
            VaultValue {
                id: arguments,
                sealed,
            },
        ))
    }

    /// Seals with a key that workers have: this process may be the last one with an earlier key, and they open nothing
    /// under that any more once it was dropped.
    fn seal(&self, place: JobValueContext, text: &str) -> Result<Sealed, Failure> {
        let keys = self.registry.fallback_keys(&self.sealer.key_id());
        let sealed = match keys.is_empty() {
            true => self.sealer.seal(place, text),
            false => self.sealer.seal_with(&keys, place, text),
        };
        sealed.map_err(|error| match error {
            SealError::UnknownKey => Failure::unavailable(OTHER_KEY),
            other => internal_error(other),
        })
    }

    /// Has the program look after itself: once for every `when`, however many processes want it.
    pub async fn submit_maintenance<C: Command>(
        &self,
        command: &C,
        when: &str,
    ) -> Result<Submitted, Failure> {
        self.submit_maintenance_for(None, command, when).await
    }

    /// The same for one server.
    pub async fn submit_server_maintenance<C: Command>(
        &self,
        server: &ServerName,
        command: &C,
        when: &str,
    ) -> Result<Submitted, Failure> {
        self.submit_maintenance_for(Some(server.clone()), command, when)
            .await
    }

    async fn submit_maintenance_for<C: Command>(
        &self,
        server: Option<ServerName>,
        command: &C,
        when: &str,
    ) -> Result<Submitted, Failure> {
        let of = server.as_ref().map(ServerName::as_str).unwrap_or_default();
        let parts = [C::NAME.as_bytes(), when.as_bytes(), of.as_bytes()];
        let scope = self
            .sealer
            .digest("upkeep", &parts)
            .map_err(internal_error)?;
        let key = Some(IdempotencyKey { scope, body: scope }.into());
        self.submit(NewJob {
            server,
            key,
            ..NewJob::maintenance(command, Actor::Worker)?
        })
        .await
    }

    /// Cancels a job of that user. One that waits never runs; one that runs is told to stop.
    pub async fn cancel(&self, id: JobId, user: UserName) -> Result<Arc<Job>, Failure> {
        let until = self.answer_expiry();
        let decide =
            move |catalog: &_| crate::core::decide::job::cancel_job(catalog, id, &user, until);
        self.appender
            .commit(CommandId(Uuid::now_v7()), Actor::Api, decide)
            .await?;
        let job = self.projection.catalog().jobs.get(id).cloned();
        job.ok_or_else(|| Failure::job_not_found(id))
    }

    /// What a producer's own id of a job is known by.
    pub fn producer_key(&self, id: &str) -> Result<Digest, Failure> {
        self.sealer
            .digest("producer's id", &[id.as_bytes()])
            .map_err(internal_error)
    }

    /// How long the key of a change made now is remembered: milliseconds since 1970.
    pub fn idempotency_expiry(&self) -> u64 {
        now_ms() + KEYS.as_millis() as u64
    }

    /// How long the answer of a job that ends now is kept: milliseconds since 1970.
    pub fn answer_expiry(&self) -> u64 {
        now_ms() + self.limits.job_result_ttl.as_millis() as u64
    }
}
