//! Accepts jobs: it seals the arguments, stores them in the Vault, and appends one event that names
//! them.
//!
//! The client needs no worker. A job that no worker can execute now waits in the log.

use std::sync::Arc;

use serde_json::value::to_raw_value;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::retention;
use crate::cluster::membership::WorkerRegistry;
use crate::config::Limits;
use crate::core::command::Command;
use crate::core::decide::job::{AcceptJob, accept_jobs, active_singleton, cancel_job};
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

/// The error for a job whose arguments no worker could open.
const OTHER_KEY: &str = "The workers seal with another key than this process; restart this process with their SECRETS_KEY";

/// Accepts and cancels jobs.
#[derive(Clone)]
pub struct JobClient {
    appender: Appender,
    projection: Arc<Projection>,
    vault: Arc<dyn Vault>,
    sealer: Sealer,
    registry: Arc<WorkerRegistry>,
    limits: Limits,
}

/// A job that is not accepted yet.
pub struct NewJob {
    pub user: UserName,
    /// The name of the command.
    pub command: &'static str,
    /// The server that the command is about.
    pub server: Option<ServerName>,
    pub work: JobArguments,
    pub key: Option<JobIdempotencyKey>,
    pub actor: Actor,
}

/// A job in the log.
#[derive(Debug, Clone, Copy)]
pub struct Submitted {
    pub id: JobId,
    /// False if the job was in the log before.
    pub new: bool,
}

impl NewJob {
    /// Creates a maintenance job of the system user.
    ///
    /// # Errors
    /// Returns an internal error if the command cannot be encoded.
    pub fn maintenance<C: Command>(command: &C, actor: Actor) -> Result<Self, Failure> {
        let work = JobArguments {
            call: None,
            raw: false,
            reply: None,
            server_id: None,
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

/// Returns the failure for an idempotency key whose job expired between look-up and answer.
pub fn key_expired() -> Failure {
    Failure::unavailable("The job of this Idempotency-Key has just expired; retry the request")
}

impl JobClient {
    /// Creates a client that appends to the log of this projection.
    pub fn new(
        appender: Appender,
        projection: Arc<Projection>,
        vault: Arc<dyn Vault>,
        sealer: Sealer,
        registry: Arc<WorkerRegistry>,
        limits: Limits,
    ) -> Self {
        Self {
            appender,
            projection,
            vault,
            sealer,
            registry,
            limits,
        }
    }

    /// Returns the sealer of this process.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Accepts a job. Returns the earlier job if the idempotency key was used before, or if a job
    /// of the same command is active and only one may run at a time.
    ///
    /// # Errors
    /// Returns the failure of the decision, or `unavailable` if the job cannot be stored.
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, Failure> {
        let key = new.key;
        let command = new.command;
        let (ids, committed) = self.append_jobs(vec![new]).await?;
        if let Some(id) = ids.first().filter(|_| !committed.events.is_empty()) {
            return Ok(Submitted { id: *id, new: true });
        }
        let before = committed.before.as_ref();
        let active = before.and_then(|before| active_singleton(before, command));
        let catalog = self.projection.catalog();
        let earlier = active.map(|job| job.id).or_else(|| {
            let job = catalog.jobs.find_by_key(key?.request.scope);
            job.map(|job| job.id)
        });
        earlier
            .map(|id| Submitted { id, new: false })
            .ok_or_else(key_expired)
    }

    /// Accepts several jobs of one sender together. Returns `None` and accepts no job if the
    /// idempotency key of one job was used before.
    ///
    /// # Errors
    /// Returns the failure of the decision, or `unavailable` if the jobs cannot be stored.
    pub async fn submit_all(&self, new: Vec<NewJob>) -> Result<Option<Vec<JobId>>, Failure> {
        if new.is_empty() {
            return Ok(Some(vec![]));
        }
        let (ids, committed) = self.append_jobs(new).await?;
        Ok((!committed.events.is_empty()).then_some(ids))
    }

    /// Appends jobs and returns their ids. No job is accepted if the commit has no events.
    async fn append_jobs(&self, new: Vec<NewJob>) -> Result<(Vec<JobId>, Committed), Failure> {
        let actor = new.first().map_or(Actor::worker(), |new| new.actor.clone());
        let sealed = new
            .into_iter()
            .map(|new| self.seal_arguments(new))
            .collect::<Result<Vec<_>, _>>()?;
        let (accept, values): (Vec<_>, Vec<_>) = sealed.into_iter().unzip();
        let ids: Vec<_> = accept.iter().map(|accept| accept.job).collect();
        let arguments: Vec<_> = accept.iter().map(|accept| accept.arguments).collect();
        let first = CommandId(ids.first().map_or(Uuid::nil(), |id| id.0));
        let decide = move |catalog: &_| accept_jobs(catalog, &accept);
        let accepted = self
            .appender
            .commit_with_values(first, actor, values, decide)
            .await;
        let is_refused = match &accepted {
            Ok(committed) => committed.events.is_empty(),
            // If the store does not answer, the log may name the arguments now or in a moment.
            Err(failure) => failure.code != Code::Unavailable,
        };
        if is_refused {
            // The sweep of the Vault removes the arguments if this call fails.
            let _ = self.vault.remove(&arguments).await;
        }
        Ok((ids, accepted?))
    }

    /// Seals the arguments of a job.
    fn seal_arguments(&self, new: NewJob) -> Result<(AcceptJob, VaultValue), Failure> {
        let NewJob {
            user,
            command,
            server,
            work,
            key,
            actor,
        } = new;
        let job = JobId(Uuid::now_v7());
        let arguments = ValueId(Uuid::now_v7());
        let text = Zeroizing::new(serde_json::to_string(&work).map_err(internal_error)?);
        let context = JobValueContext {
            job,
            part: JobValueKind::Arguments,
            value: arguments,
        };
        let sealed = self.seal(context, &text)?;
        let tool = work.call.as_ref().map(|CallTool { tool, .. }| tool.clone());
        let max_waiting = self.limits.waiting_jobs;
        let accept = AcceptJob {
            job,
            user,
            command,
            server,
            tool,
            arguments,
            key,
            token: actor.token,
            max_waiting,
        };
        Ok((
            accept,
            VaultValue {
                id: arguments,
                sealed,
            },
        ))
    }

    /// Seals with a key that the workers have. If this process is the last one with an old key, the
    /// workers cannot open values under this key after the rotation has removed it.
    fn seal(&self, context: JobValueContext, text: &str) -> Result<Sealed, Failure> {
        let key_ids = self.registry.fallback_keys(&self.sealer.key_id());
        let sealed = if key_ids.is_empty() {
            self.sealer.seal(context, text)
        } else {
            self.sealer.seal_with(&key_ids, context, text)
        };
        sealed.map_err(|error| match error {
            SealError::UnknownKey => Failure::unavailable(OTHER_KEY),
            other => internal_error(other),
        })
    }

    /// Submits a maintenance job. All processes together submit one job for each `period`.
    ///
    /// # Errors
    /// Returns the same failures as [`JobClient::submit`].
    pub async fn submit_maintenance<C: Command>(
        &self,
        command: &C,
        period: &str,
    ) -> Result<Submitted, Failure> {
        self.submit_maintenance_for(None, command, period).await
    }

    /// Submits a maintenance job for one server. All processes together submit one job for each
    /// server and `period`.
    ///
    /// # Errors
    /// Returns the same failures as [`JobClient::submit`].
    pub async fn submit_server_maintenance<C: Command>(
        &self,
        server: &ServerName,
        command: &C,
        period: &str,
    ) -> Result<Submitted, Failure> {
        self.submit_maintenance_for(Some(server.clone()), command, period)
            .await
    }

    async fn submit_maintenance_for<C: Command>(
        &self,
        server: Option<ServerName>,
        command: &C,
        period: &str,
    ) -> Result<Submitted, Failure> {
        let server_name = server.as_ref().map(ServerName::as_str).unwrap_or_default();
        let parts = [
            C::NAME.as_bytes(),
            period.as_bytes(),
            server_name.as_bytes(),
        ];
        let scope = self
            .sealer
            .digest("upkeep", &parts)
            .map_err(internal_error)?;
        let key = Some(
            IdempotencyKey {
                scope,
                body: scope,
                user: None,
            }
            .into(),
        );
        self.submit(NewJob {
            server,
            key,
            ..NewJob::maintenance(command, Actor::worker())?
        })
        .await
    }

    /// Cancels a job of this user. A waiting job never runs. The worker stops a running job.
    ///
    /// # Errors
    /// Returns `job_not_found` if the user has no such job, and the failures of the decision.
    pub async fn cancel(
        &self,
        id: JobId,
        user: UserName,
        actor: Actor,
    ) -> Result<Arc<Job>, Failure> {
        let until = self.answer_expiry();
        let decide = move |catalog: &_| cancel_job(catalog, id, &user, until);
        self.appender
            .commit(CommandId(Uuid::now_v7()), actor, decide)
            .await?;
        let job = self.projection.catalog().jobs.get(id).cloned();
        job.ok_or_else(|| Failure::job_not_found(id))
    }

    /// Returns the digest that stands for a producer's own id of a job.
    ///
    /// # Errors
    /// Returns an internal error if the digest cannot be computed.
    pub fn producer_key(&self, id: &str) -> Result<Digest, Failure> {
        self.sealer
            .digest("producer's id", &[id.as_bytes()])
            .map_err(internal_error)
    }

    /// Returns when an idempotency key that is used now expires, in milliseconds since 1970.
    pub fn idempotency_expiry(&self) -> u64 {
        retention::idempotency_expiry()
    }

    /// Returns when the answer of a job that ends now expires, in milliseconds since 1970.
    pub fn answer_expiry(&self) -> u64 {
        retention::answer_expiry(self.limits.job_result_ttl)
    }
}
