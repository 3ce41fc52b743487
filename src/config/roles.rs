//! The roles and the pools of this process.

use super::env::{BadConfig, Env, Variable};

const ROLES: Variable = Variable {
    name: "ROLES",
    default: "api,worker",
    about: "The roles of this process: api answers HTTP, worker runs servers. A single role needs NATS_URL.",
};
const POOLS: Variable = Variable {
    name: "POOLS",
    default: "tools,packages,tokens",
    about: "The pools of this worker: tools runs servers, calls and secrets, packages installs packages, tokens refreshes OAuth tokens.",
};

pub(super) const VARIABLES: &[&Variable] = &[&ROLES, &POOLS];

#[derive(Debug, Clone)]
pub struct Roles {
    pub api: bool,
    /// The pools of the worker, or `None` if this process is no worker.
    pub worker: Option<Pools>,
}

/// The pools a worker belongs to.
#[derive(Debug, Clone)]
pub struct Pools {
    pub tools: bool,
    pub packages: bool,
    pub tokens: bool,
}

impl Roles {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let roles = env.list(&ROLES, &["api", "worker"])?;
        let pools = env.list(&POOLS, &["tools", "packages", "tokens"])?;
        let has = |list: &[String], name: &str| list.iter().any(|given| given == name);
        let worker = has(&roles, "worker").then(|| Pools {
            tools: has(&pools, "tools"),
            packages: has(&pools, "packages"),
            tokens: has(&pools, "tokens"),
        });
        Ok(Self {
            api: has(&roles, "api"),
            worker,
        })
    }

    /// Returns whether this process has all roles and pools.
    pub fn are_all(&self) -> bool {
        self.api
            && self
                .worker
                .as_ref()
                .is_some_and(|pools| pools.tools && pools.packages && pools.tokens)
    }
}
