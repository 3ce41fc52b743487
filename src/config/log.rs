//! The filter and the format of the log.

use super::env::{BadConfig, Env, Variable};

const LOG_FORMAT: Variable = Variable {
    name: "LOG_FORMAT",
    default: "auto",
    about: "pretty, json, or auto: pretty on a terminal, else JSON.",
};
const RUST_LOG: Variable = Variable {
    name: "RUST_LOG",
    default: "info,rmcp=warn",
    about: "The log filter, in the syntax of EnvFilter of the crate tracing-subscriber. Libraries that log whole messages stay quiet in any case.",
};

pub(super) const VARIABLES: &[&Variable] = &[&LOG_FORMAT, &RUST_LOG];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Pretty,
    Json,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
}

impl LogConfig {
    pub fn read(env: &Env) -> Result<Self, BadConfig> {
        let format: String = env.parse(&LOG_FORMAT, "a format")?;
        let format = match format.as_str() {
            "auto" => LogFormat::Auto,
            "pretty" => LogFormat::Pretty,
            "json" => LogFormat::Json,
            _ => {
                return Err(BadConfig::new(
                    LOG_FORMAT.name,
                    "must be pretty, json or auto",
                ));
            }
        };
        let filter: String = env.parse(&RUST_LOG, "a filter")?;
        if tracing_subscriber::EnvFilter::builder()
            .parse(&filter)
            .is_err()
        {
            return Err(BadConfig::new(
                RUST_LOG.name,
                "must be a filter such as info,mcp_api=debug",
            ));
        }
        Ok(Self { format, filter })
    }
}
