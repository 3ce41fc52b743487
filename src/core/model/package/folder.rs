//! The folders of packages. A stored configuration has a placeholder for the folder of its package, because each worker
//! has its own folder. A response shows the path.

use std::path::PathBuf;

use super::Source;
use crate::core::model::server::{ServerChange, Transport};
use crate::core::names::ServerName;

/// The placeholder for the package folder in `command`, `args` and `env`.
pub const FOLDER: &str = "${package}";

/// The package folders of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageDirs {
    pub node: PathBuf,
    pub python: PathBuf,
}

impl PackageDirs {
    /// Returns the folder of all packages from a source.
    pub fn for_source(&self, source: &Source) -> &PathBuf {
        match source {
            Source::Node => &self.node,
            Source::Python(_) => &self.python,
        }
    }

    /// Returns the path of the link to the current version of a server's package.
    pub fn link(&self, source: &Source, server: &ServerName) -> PathBuf {
        self.for_source(source).join(server.as_str())
    }
}

impl Transport {
    /// Replaces the placeholder by the package folder.
    #[must_use]
    pub fn with_folder(mut self, folder: &str) -> Self {
        if let Self::Stdio { command, args, env } = &mut self {
            for text in std::iter::once(command).chain(args).chain(env.values_mut()) {
                *text = text.replace(FOLDER, folder);
            }
        }
        self
    }
}

impl ServerChange {
    /// Replaces the package folder by the placeholder.
    #[must_use]
    pub fn with_placeholder(mut self, folder: &str) -> Self {
        let args = self.args.iter_mut().flatten();
        let env = self.env.iter_mut().flat_map(|env| env.values_mut());
        for text in self.command.iter_mut().chain(args).chain(env) {
            *text = replace_folder(text, folder);
        }
        self
    }
}

/// Replaces each complete path `folder` by the placeholder. `/packages/ab` stays if the folder is `/packages/a`.
fn replace_folder(text: &str, folder: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut remaining = text;
    while let Some(index) = remaining.find(folder) {
        let after = &remaining[index + folder.len()..];
        let goes_on = after.starts_with(|character: char| {
            character.is_alphanumeric() || matches!(character, '.' | '_' | '-')
        });
        replaced.push_str(&remaining[..index]);
        replaced.push_str(if goes_on { folder } else { FOLDER });
        remaining = after;
    }
    replaced + remaining
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_and_the_folder_replace_each_other() {
        let config = |command: &str, arg: &str| Transport::Stdio {
            command: command.into(),
            args: vec![arg.into()],
            env: [].into(),
        };
        let stored = config("${package}/bin/x", "--at=${package}:/y");
        let shown = config("/p/a/bin/x", "--at=/p/a:/y");
        assert_eq!(stored.with_folder("/p/a"), shown);
        let change = |command: &str| ServerChange {
            command: Some(command.into()),
            ..ServerChange::default()
        };
        assert_eq!(
            change("/p/a/bin/x").with_placeholder("/p/a"),
            change("${package}/bin/x")
        );
        assert_eq!(replace_folder("/p/ab/x /p/a", "/p/a"), "/p/ab/x ${package}");
    }
}
