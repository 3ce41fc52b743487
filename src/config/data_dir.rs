//! The folder of the log, the sealed values and the key.

use std::path::PathBuf;

use super::env::{BadConfig, Env, Variable};

pub const DATA_DIR: Variable = Variable {
    name: "DATA_DIR",
    default: "./data",
    about: "The folder of the log, the sealed values and the key. Only one process uses it at a time.",
};

pub const VARIABLES: &[&Variable] = &[&DATA_DIR];

#[derive(Debug, Clone)]
pub struct DataDir {
    pub path: PathBuf,
}

impl DataDir {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        Ok(Self {
            path: env.parse(&DATA_DIR, "a folder")?,
        })
    }
}
