//! The command `completions`: real shells read its scripts.

use std::fs;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::process::{binary, command};

fn script(shell: &str) -> String {
    let folder = TempDir::new().expect("a folder");
    let output = command(folder.path(), &[])
        .args(["completions", shell])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{shell}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the texts that bash offers for the last word of a command line.
fn completions(words: &[&str]) -> Vec<String> {
    let read = r#"
        source <("$0" completions bash)
        [[ $(complete -p mcp-api) =~ -F\ ([^ ]+) ]] && complete_function=${BASH_REMATCH[1]}
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        "$complete_function" mcp-api "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", read, binary(), "mcp-api"])
        .args(words)
        .output()
        .expect("bash");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    assert_eq!(completions(&["tok"]), ["token"]);
    assert_eq!(completions(&["token", "rev"]), ["revoke"]);
    assert_eq!(completions(&["token", "create", "--sc"]), ["--scope"]);
    assert_eq!(completions(&["completions", "z"]), ["zsh"]);
    let all = completions(&[""]);
    assert!(all.iter().any(|word| word == "rotate-keys"), "{all:?}");
    // Only the program itself starts the guard.
    assert!(!all.iter().any(|word| word == "guard"), "{all:?}");
}

/// Checks a script with a shell that only parses it. Returns `None` if this machine does not have the shell.
fn parse(shell: &str, arguments: &[&str], script: &Path) -> Option<Output> {
    match Command::new(shell).args(arguments).arg(script).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("this machine has no {shell}, so it does not read its script");
            None
        }
        output => Some(output.expect("the shell runs")),
    }
}

#[test]
fn every_shell_of_this_machine_accepts_its_script() {
    let folder = TempDir::new().expect("a folder");
    for (shell, arguments) in [
        ("bash", &["-n"][..]),
        ("zsh", &["-n"]),
        ("fish", &["--no-execute"]),
        ("elvish", &["-compileonly"]),
    ] {
        let text = script(shell);
        assert!(text.contains("mcp-api"), "{shell}: {text}");
        let file = folder.path().join(shell);
        fs::write(&file, text).expect("a file");
        if let Some(output) = parse(shell, arguments, &file) {
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
    assert!(script("powershell").contains("Register-ArgumentCompleter"));
}

#[test]
fn a_script_that_cannot_be_written_is_an_error() {
    let folder = TempDir::new().expect("a folder");
    let full = File::options().write(true).open("/dev/full");
    let mut command = command(folder.path(), &[]);
    command.args(["completions", "bash"]);
    let output = command.stdout(full.expect("a device")).output();
    let output = output.expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("standard output"), "{stderr}");
}
