//! `mcp-api completions SHELL`: prints a script with which a shell completes the command line.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::Cli;
use super::error::{CliError, CommandResult};

/// Prints the script of a shell. A reader that closes the pipe ends the command.
pub(super) fn run(shell: Shell) -> CommandResult {
    let mut stdout = io::stdout();
    match stdout
        .write_all(&script(shell))
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut visible_command(), "mcp-api", &mut script);
    if shell == Shell::Bash {
        with_one_spelling(&script)
    } else {
        script
    }
}

/// Returns a script of bash with one spelling of the states. `clap_complete` 4.6 sets a state as `mcp__api` and compares
/// it with `mcp__subcmd__api`, so that a program with a hyphen in its name completes no subcommand.
fn with_one_spelling(script: &[u8]) -> Vec<u8> {
    let script = String::from_utf8_lossy(script);
    script.replace("mcp__subcmd__api", "mcp__api").into_bytes()
}

/// Returns the command line without its hidden commands, which the generators show otherwise.
fn visible_command() -> clap::Command {
    let all = Cli::command();
    let visible = all
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set());
    clap::Command::new("mcp-api")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(visible.cloned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_script_knows_the_visible_commands_and_no_hidden_command() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).expect("UTF-8");
            for shown in ["rotate-keys", "completions", "token", "revoke", "follow"] {
                assert!(script.contains(shown), "{shell}: {shown}");
            }
            for hidden in ["guard", "schemas"] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
        }
    }
}
