//! The limits of bodies, of work in progress and of time.

use std::time::Duration;

use super::env::{BadConfig, Env, Variable};

const PAYLOAD_LIMIT: Variable = Variable {
    name: "PAYLOAD_LIMIT",
    default: "6mb",
    about: "The largest request body.",
};
const RESULT_LIMIT: Variable = Variable {
    name: "RESULT_LIMIT",
    default: "12mb",
    about: "The largest result of a tool call.",
};
const MAX_CALLS: Variable = Variable {
    name: "MAX_CALLS",
    default: "1024",
    about: "Tool calls that a worker executes at once.",
};
const MAX_CALLS_PER_SERVER: Variable = Variable {
    name: "MAX_CALLS_PER_SERVER",
    default: "256",
    about: "Tool calls to one server at once.",
};
const MAX_CALLS_PER_USER: Variable = Variable {
    name: "MAX_CALLS_PER_USER",
    default: "256",
    about: "Tool calls of one user at once.",
};
const MAX_USER_PROCESSES: Variable = Variable {
    name: "MAX_USER_PROCESSES",
    default: "64",
    about: "Processes of single users in a worker, for servers with credentials in the environment.",
};
const MAX_USER_CONNECTIONS: Variable = Variable {
    name: "MAX_USER_CONNECTIONS",
    default: "1024",
    about: "Connections of single users in a worker, for servers behind a URL.",
};
const USER_PROCESS_IDLE: Variable = Variable {
    name: "USER_PROCESS_IDLE",
    default: "10m",
    about: "The time without a call after which the process or the connection of a user ends.",
};
const MAX_WAITING_JOBS: Variable = Variable {
    name: "MAX_WAITING_JOBS",
    default: "20000",
    about: "Waiting jobs of one user.",
};
const JOB_RESULT_TTL: Variable = Variable {
    name: "JOB_RESULT_TTL",
    default: "24h",
    about: "The time for which the log keeps the answer of an ended job. With an Idempotency-Key, at least 24 hours from the start of the job.",
};
const LEASE_TTL: Variable = Variable {
    name: "LEASE_TTL",
    default: "12s",
    about: "The longest time for which a worker that stands still keeps its servers. Then their processes are killed.",
};
const DRAIN_TIMEOUT: Variable = Variable {
    name: "DRAIN_TIMEOUT",
    default: "30s",
    about: "The time that running calls have after SIGTERM.",
};

pub(super) const VARIABLES: &[&Variable] = &[
    &PAYLOAD_LIMIT,
    &RESULT_LIMIT,
    &MAX_CALLS,
    &MAX_CALLS_PER_SERVER,
    &MAX_CALLS_PER_USER,
    &MAX_USER_PROCESSES,
    &MAX_USER_CONNECTIONS,
    &USER_PROCESS_IDLE,
    &MAX_WAITING_JOBS,
    &JOB_RESULT_TTL,
    &LEASE_TTL,
    &DRAIN_TIMEOUT,
];

const GIB: usize = 1 << 30;

#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest request body in bytes.
    pub payload: usize,
    /// The largest result in bytes.
    pub result: usize,
    pub calls: usize,
    pub calls_per_server: usize,
    pub calls_per_user: usize,
    /// The processes of single users in a worker.
    pub user_processes: usize,
    /// The connections of single users in a worker.
    pub user_connections: usize,
    /// The time without a call after which the process or the connection of a user ends.
    pub user_idle: Duration,
    pub waiting_jobs: usize,
    pub job_result_ttl: Duration,
    pub lease_ttl: Duration,
    pub drain: Duration,
}

impl Limits {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        Ok(Self {
            payload: env.bytes(&PAYLOAD_LIMIT, 1024..=GIB)?,
            result: env.bytes(&RESULT_LIMIT, 1024..=GIB)?,
            calls: env.number(&MAX_CALLS, 1..=1_000_000)?,
            calls_per_server: env.number(&MAX_CALLS_PER_SERVER, 1..=1_000_000)?,
            calls_per_user: env.number(&MAX_CALLS_PER_USER, 1..=1_000_000)?,
            user_processes: env.number(&MAX_USER_PROCESSES, 1..=100_000)?,
            user_connections: env.number(&MAX_USER_CONNECTIONS, 1..=100_000)?,
            user_idle: env.duration(
                &USER_PROCESS_IDLE,
                Duration::from_secs(1)..=Duration::from_secs(86_400),
            )?,
            waiting_jobs: env.number(&MAX_WAITING_JOBS, 1..=10_000_000)?,
            job_result_ttl: env.duration(
                &JOB_RESULT_TTL,
                Duration::from_secs(1)..=Duration::from_secs(30 * 86_400),
            )?,
            lease_ttl: env.duration(
                &LEASE_TTL,
                Duration::from_secs(1)..=Duration::from_secs(3600),
            )?,
            drain: env.duration(&DRAIN_TIMEOUT, Duration::ZERO..=Duration::from_secs(3600))?,
        })
    }
}
