//! Where packages lie. In a server's configuration a word stands for its package's folder, because every worker has
//! it somewhere else; whoever reads an answer sees a path.

use std::path::PathBuf;

use super::Source;
use crate::core::model::server::{ServerChange, Transport};
use crate::core::names::ServerName;

/// Stands in `command`, `args` and `env` for the folder of the server's package.
pub const FOLDER: &str = "${package}";

/// Where this process keeps packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageDirs {
    pub node: PathBuf,
    pub python: PathBuf,
}

impl PackageDirs {
    pub fn of(&self, source: &Source) -> &PathBuf {
        match source {
            Source::Node => &self.node,
            Source::Python(_) => &self.python,
        }
    }

    /// The link to a server's current version.
    pub fn link(&self, source: &Source, server: &ServerName) -> PathBuf {
        self.of(source).join(server.as_str())
    }
}

impl Transport {
    /// As it is with that folder in the word's place.
    #[must_use]
    pub fn placed(mut self, folder: &str) -> Self {
        if let Self::Stdio { command, args, env } = &mut self {
            let texts = std::iter::once(command).chain(args).chain(env.values_mut());
            texts.for_each(|text| *text = text.replace(FOLDER, folder));
        }
        self
    }
}

impl ServerChange {
    /// As it is with the word in the folder's place.
    #[must_use]
    pub fn unplaced(mut self, folder: &str) -> Self {
        let texts = self
            .command
            .iter_mut()
            .chain(self.args.iter_mut().flatten());
        texts
            .chain(self.env.iter_mut().flat_map(|env| env.values_mut()))
            .for_each(|text| *text = unplaced(text, folder));
        self
    }
}

/// Only where it is a whole path: `/packages/a` is not the beginning of `/packages/ab`.
pub fn unplaced(text: &str, folder: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(folder) {
        let after = &rest[at + folder.len()..];
        let whole =
            !after.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-'));
        out.push_str(&rest[..at]);
        out.push_str(if whole { FOLDER } else { folder });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_and_goes() {
        let config = |command: &str, arg: &str| Transport::Stdio {
            command: command.into(),
            args: vec![arg.into()],
            env: [].into(),
        };
        let stored = config("${package}/bin/x", "--at=${package}:/y");
        let shown = config("/p/a/bin/x", "--at=/p/a:/y");
        assert_eq!(stored.placed("/p/a"), shown);
        let change = |command: &str| ServerChange {
            command: Some(command.into()),
            ..ServerChange::default()
        };
        assert_eq!(
            change("/p/a/bin/x").unplaced("/p/a"),
            change("${package}/bin/x")
        );
        assert_eq!(unplaced("/p/ab/x /p/a", "/p/a"), "/p/ab/x ${package}");
    }
}
