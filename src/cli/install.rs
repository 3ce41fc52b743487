//! `mcp-api install PACKAGE --as NAME`: has the running service install a package, and shows how far that is.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::CommandResult;
use super::call::error_text;
use super::client::{ApiArgs, ApiClient, block_on, send, send_later};

/// What an installation does, in this order.
const PHASES: [&str; 4] = ["resolving", "installing", "starting", "connecting"];
/// Signs of a bar for each of them.
const STEP: usize = 6;
/// Columns of a line of npm or pip that are shown.
const WIDTH: usize = 60;

#[derive(Args)]
pub struct InstallArgs {
    /// A package of npm, or of PyPI with --python; NAME@VERSION names a version
    package: String,
    /// What the server will be called
    #[arg(long = "as", value_name = "NAME")]
    server: String,
    /// Install from PyPI; what python -m runs
    #[arg(long, value_name = "MODULE")]
    python: Option<String>,
    /// Install from PyPI; the package's own program to start instead of a module
    #[arg(long, value_name = "PROGRAM", conflicts_with = "python")]
    python_program: Option<String>,
    /// A requirement to install with a Python package, such as 'mcp<2'
    #[arg(long = "with", value_name = "REQUIREMENT")]
    with: Vec<String>,
    /// An argument for the server
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub fn run(args: &InstallArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let (_, accepted) =
            send_later(&api, "POST", "/packages/install", args.body(), None).await?;
        let Some(job) = accepted["jobId"].as_str() else {
            return Err(error_text(&accepted).into());
        };
        let mut bar = Bar {
            drawn: std::io::stdout().is_terminal(),
            last: String::new(),
        };
        let answer = follow(&api, job, |progress| bar.show(progress)).await?;
        bar.end();
        if answer["success"] != true {
            return Err(error_text(&answer).into());
        }
        let (package, server) = (&answer["package"], &answer["server"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tools = server["toolsList"].as_array().map_or(0, Vec::len);
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        println!(
            "{name} {version} is {} and {} with {tools} tools",
            args.server,
            text(&server["status"])
        );
        Ok(if server["status"] == "error" {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    })
}

impl InstallArgs {
    fn body(&self) -> Value {
        let (name, version) = match self.package.get(1..).and_then(|rest| rest.rfind('@')) {
            Some(at) => (&self.package[..=at], Some(&self.package[at + 2..])),
            None => (self.package.as_str(), None),
        };
        let mut body = json!({ "name": name, "serverName": self.server });
        let mut set = |field: &str, value: Value| body[field] = value;
        if let Some(version) = version {
            set("version", version.into());
        }
        if self.python.is_some() || self.python_program.is_some() {
            set("runtime", "python".into());
            set("pipDependencies", json!(self.with));
        }
        if let Some(module) = &self.python {
            set("pythonModule", module.as_str().into());
        }
        if let Some(program) = &self.python_program {
            set("command", program.as_str().into());
        }
        if !self.args.is_empty() {
            set(
                if self.python.is_some() {
                    "pythonArgs"
                } else {
                    "args"
                },
                json!(self.args),
            );
        }
        body
    }
}

/// Shows how far the job is until it has ended, and gives its answer.
pub async fn follow(
    api: &ApiClient,
    job: &str,
    mut show: impl FnMut(&Value),
) -> Result<Value, String> {
    loop {
        let (_, told) = send(api, "GET", &format!("/jobs/{job}?wait=300ms"), None).await?;
        let job = &told["job"];
        if !job.is_object() {
            return Err(error_text(&told));
        }
        if job["answer"].is_object() {
            return Ok(job["answer"]["body"].clone());
        }
        show(&job["progress"]);
    }
}

/// One line that changes on a terminal; elsewhere a line for each phase.
struct Bar {
    drawn: bool,
    last: String,
}

impl Bar {
    fn show(&mut self, progress: &Value) {
        let phase = progress["phase"].as_str().unwrap_or("waiting");
        if !self.drawn {
            if self.last != phase {
                self.last = phase.to_owned();
                println!("{phase} …");
            }
            return;
        }
        let done = PHASES
            .iter()
            .position(|known| *known == phase)
            .map_or(0, |at| at * STEP + STEP / 2);
        let bar = "█".repeat(done) + &"░".repeat(PHASES.len() * STEP - done);
        let line: String = progress["line"]
            .as_str()
            .unwrap_or_default()
            .chars()
            .take(WIDTH)
            .collect();
        print!("\r\x1b[K{bar} {phase:10} {line}");
        let _ = std::io::stdout().flush();
    }

    fn end(&self) {
        if self.drawn {
            print!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        install: InstallArgs,
    }

    #[test]
    fn a_package_may_name_its_version() {
        let body = |line: &str| {
            Line::try_parse_from(line.split(' '))
                .ok()
                .map(|line| line.install.body())
        };
        assert_eq!(
            body("x @a/b@1.2 --as m"),
            Some(json!({ "name": "@a/b", "version": "1.2", "serverName": "m" }))
        );
        assert_eq!(
            body("x @a/b --as m --arg -v"),
            Some(json!({ "name": "@a/b", "serverName": "m", "args": ["-v"] }))
        );
        let python = json!({ "name": "t", "serverName": "m", "runtime": "python", "pythonModule": "t_t", "pipDependencies": ["mcp<2"] });
        assert_eq!(body("x t --as m --python t_t --with mcp<2"), Some(python));
    }
}
