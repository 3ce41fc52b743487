//! `mcp-api install PACKAGE --as NAME`: installs a package through a running API and shows the progress.

use std::io;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{
    ApiArgs, ApiClient, ClientError, block_on, error_text, failed_response, send, send_as_job,
};
use super::error::{CliError, CommandResult};
use super::output::{print_line, print_text};

/// The phases of an installation, in their order.
const PHASES: [&str; 4] = ["resolving", "installing", "starting", "connecting"];
/// The width of one phase in the progress bar, in characters.
const PHASE_WIDTH: usize = 6;
/// The number of characters of an npm or pip line that the progress bar shows.
const LINE_WIDTH: usize = 60;

#[derive(Args)]
pub struct InstallArgs {
    /// A package of npm, or of PyPI with --python or --python-program; NAME@VERSION selects a version
    package: String,
    /// The name of the new server
    #[arg(long = "as", value_name = "NAME")]
    server: String,
    /// Install from PyPI and start this module (python -m MODULE)
    #[arg(long, value_name = "MODULE")]
    python: Option<String>,
    /// Install from PyPI and start this program of the package instead of a module
    #[arg(long, value_name = "PROGRAM", conflicts_with = "python")]
    python_program: Option<String>,
    /// A further requirement of a Python package, such as 'mcp<2'
    #[arg(long = "with", value_name = "REQUIREMENT")]
    with: Vec<String>,
    /// An argument of the server
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) fn run(args: &InstallArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let (_, accepted) = send_as_job(&api, "/packages/install", &args.body(), None).await?;
        let Some(job) = accepted["jobId"].as_str() else {
            return Err(CliError::Failed(error_text(&accepted)));
        };
        let mut bar = ProgressBar {
            is_terminal: io::stdout().is_terminal(),
            last_phase: String::new(),
        };
        let answer = follow(&api, job, |progress| bar.show(progress)).await?;
        bar.clear();
        report(&args.server, &answer)
    })
}

/// Prints the result of an installation.
fn report(name: &str, answer: &Value) -> CommandResult {
    if answer["success"] != true {
        return Err(CliError::Failed(error_text(answer)));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let server = &answer["server"];
    let status = text(&server["status"]);
    let tools = server["toolsList"].as_array().map_or(0, Vec::len);
    let package = text(&answer["package"]["name"]);
    let version = text(&answer["package"]["version"]);
    print_line(format_args!(
        "{package} {version} is installed as {name}: {status}, {tools} tools"
    ));
    Ok(if status == "error" {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
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

/// Shows the progress of a job until it ends, and returns the body of its answer.
pub(super) async fn follow(
    api: &ApiClient,
    job: &str,
    mut show: impl FnMut(&Value),
) -> Result<Value, ClientError> {
    loop {
        let path = format!("/jobs/{job}?wait=300ms");
        let (status, body) = send(api, Method::GET, &path, None).await?;
        let job = &body["job"];
        if !job.is_object() {
            return Err(failed_response(status, &body));
        }
        if job["answer"].is_object() {
            return Ok(job["answer"]["body"].clone());
        }
        show(&job["progress"]);
    }
}

/// A progress bar on a terminal, and one line per phase elsewhere.
struct ProgressBar {
    is_terminal: bool,
    last_phase: String,
}

impl ProgressBar {
    fn show(&mut self, progress: &Value) {
        let phase = progress["phase"].as_str().unwrap_or("waiting");
        if !self.is_terminal {
            if self.last_phase != phase {
                self.last_phase = phase.to_owned();
                print_line(format_args!("{phase} …"));
            }
            return;
        }
        let position = PHASES.iter().position(|known| *known == phase);
        let done = position.map_or(0, |done| done * PHASE_WIDTH + PHASE_WIDTH / 2);
        let bar = "█".repeat(done) + &"░".repeat(PHASES.len() * PHASE_WIDTH - done);
        let line = progress["line"].as_str().unwrap_or_default();
        let line: String = line.chars().take(LINE_WIDTH).collect();
        print_text(format_args!("\r\x1b[K{bar} {phase:10} {line}"));
    }

    fn clear(&self) {
        if self.is_terminal {
            print_text("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        install: InstallArgs,
    }

    #[test]
    fn a_package_may_name_its_version() {
        let body = |line: &str| {
            CommandLine::try_parse_from(line.split(' '))
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
