//! The `env` of a server on its way to the guard: a file in memory, which only the guard inherits.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use zeroize::Zeroizing;

/// Writes variables into a file in memory. Names and values end with a zero byte.
///
/// # Errors
/// The error of the system, and an error if a variable contains a zero byte.
pub(super) fn write<'a>(
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<OwnedFd> {
    // The values may be credentials.
    let mut text = Zeroizing::new(Vec::new());
    for (name, value) in variables {
        for part in [name, value] {
            if part.contains('\0') {
                let sentence = format!("the variable {name:?} contains a zero byte");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
            }
            text.extend_from_slice(part.as_bytes());
            text.push(0);
        }
    }
    let mut file = File::from(memfd_create(c"mcp-api environment", MemfdFlags::CLOEXEC)?);
    file.write_all(&text)?;
    // The guard shares the position.
    file.seek(SeekFrom::Start(0))?;
    Ok(OwnedFd::from(file))
}

/// Reads the variables that [`write`] has written.
///
/// # Errors
/// The error of the system, and an error if the file contains no variables.
pub(super) fn read(file: OwnedFd) -> io::Result<Vec<(String, String)>> {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    let Some(text) = text.strip_suffix('\0') else {
        return Ok(Vec::new());
    };
    let mut parts = text.split('\0');
    let mut variables = Vec::new();
    while let Some(name) = parts.next() {
        let value = parts
            .next()
            .ok_or_else(|| io::Error::other("a variable has no value"))?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_survive_the_file() {
        let variables = [("A", "1"), ("EMPTY", ""), ("LINES", "one\ntwo = 2")];
        let file = write(variables.into_iter()).expect("a file");
        let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read(file).expect("variables"), owned);
        let file = write(std::iter::empty()).expect("a file");
        assert_eq!(read(file).expect("variables"), []);
    }

    #[test]
    fn a_zero_byte_is_an_error() {
        assert!(write([("A", "x\0y")].into_iter()).is_err());
    }
}
