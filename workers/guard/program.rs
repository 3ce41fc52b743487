//! The program of a child on its way to the guard: a file in memory with the command line and the `env` of the server.
//! The worker writes the file, and only the guard reads it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use zeroize::Zeroizing;

/// A command line and the variables that a child gets besides the passed-on variables.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
}

/// Writes a program into a file in memory: the number of arguments, the command, the arguments, the names and values. A
/// zero byte ends each of them.
///
/// # Errors
/// The error of the system, and an error if an argument or a variable contains a zero byte.
pub(super) fn write<'a>(
    command: &str,
    args: &[String],
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<OwnedFd> {
    // The values may be credentials.
    let mut text = Zeroizing::new(Vec::new());
    push(&mut text, &args.len().to_string(), String::new)?;
    push(&mut text, command, || "the command".into())?;
    for (number, arg) in args.iter().enumerate() {
        push(&mut text, arg, || format!("argument {}", number + 1))?;
    }
    for (name, value) in variables {
        let describe = || format!("the variable {name:?}");
        push(&mut text, name, describe)?;
        push(&mut text, value, describe)?;
    }
    let mut file = File::from(memfd_create(c"mcp-api program", MemfdFlags::CLOEXEC)?);
    file.write_all(&text)?;
    // The guard shares the position.
    file.seek(SeekFrom::Start(0))?;
    Ok(OwnedFd::from(file))
}

fn push(text: &mut Vec<u8>, part: &str, describe: impl Fn() -> String) -> io::Result<()> {
    if part.contains('\0') {
        let sentence = format!("{} contains a zero byte", describe());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    text.extend_from_slice(part.as_bytes());
    text.push(0);
    Ok(())
}

/// Reads the program that [`write`] has written.
///
/// # Errors
/// The error of the system, and an error if the file contains no program.
pub(super) fn read(file: OwnedFd) -> io::Result<Program> {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    let mut parts = text.split_terminator('\0').map(str::to_owned);
    parse(&mut parts).ok_or_else(|| io::Error::other("the file contains no program"))
}

fn parse(parts: &mut impl Iterator<Item = String>) -> Option<Program> {
    let count: usize = parts.next()?.parse().ok()?;
    let command = parts.next()?;
    let args: Vec<_> = parts.take(count).collect();
    if args.len() < count {
        return None;
    }
    let mut variables = Vec::new();
    while let Some(name) = parts.next() {
        variables.push((name, parts.next()?));
    }
    Some(Program {
        command,
        args,
        variables,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(args: &[&str]) -> Vec<String> {
        args.iter().map(|&arg| arg.to_owned()).collect()
    }

    #[test]
    fn a_program_survives_the_file() {
        let variables = [("A", "1"), ("EMPTY", ""), ("LINES", "one\ntwo = 2")];
        let arguments = args(&["-c", "", "a b", ""]);
        let file = write("sh", &arguments, variables.into_iter()).expect("a file");
        let expected = Program {
            command: "sh".into(),
            args: arguments,
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        };
        assert_eq!(read(file).expect("a program"), expected);
        let file = write("cat", &[], std::iter::empty()).expect("a file");
        let expected = Program {
            command: "cat".into(),
            args: vec![],
            variables: vec![],
        };
        assert_eq!(read(file).expect("a program"), expected);
    }

    #[test]
    fn a_zero_byte_is_an_error() {
        let error = |command: &str, arg: &str, value: &str| {
            let variables = [("A", value)].into_iter();
            let error = write(command, &args(&["-c", arg]), variables).expect_err("a zero byte");
            error.to_string()
        };
        assert_eq!(error("x\0y", "", ""), "the command contains a zero byte");
        assert_eq!(error("x", "a\0", ""), "argument 2 contains a zero byte");
        assert_eq!(
            error("x", "", "x\0y"),
            "the variable \"A\" contains a zero byte"
        );
    }
}
