//! The order of versions: npm and PyPI each have an order of their own.

use std::str::FromStr;

use super::Source;

/// Returns true if `found` is newer than `installed`. A version that breaks the rules of its registry is never newer.
pub fn is_newer(source: &Source, found: &str, installed: &str) -> bool {
    match source {
        Source::Node => is_greater::<semver::Version>(found, installed),
        Source::Python(_) => is_greater::<pep440_rs::Version>(found, installed),
    }
}

fn is_greater<V: FromStr + Ord>(found: &str, installed: &str) -> bool {
    match (found.parse::<V>(), installed.parse::<V>()) {
        (Ok(found), Ok(installed)) => found > installed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::package::PythonOptions;

    #[test]
    fn each_registry_has_its_own_order() {
        let python = Source::Python(PythonOptions::default());
        for (source, found, installed, expected) in [
            (&Source::Node, "2026.8.31", "2026.1.26", true),
            (&Source::Node, "1.10.0", "1.9.0", true),
            (&Source::Node, "1.0.0-beta.2", "1.0.0", false),
            (&Source::Node, "1.0.0", "1.0.0", false),
            (&python, "2026.10.19", "2026.10.10", true),
            (&python, "1.0rc1", "1.0", false),
            (&python, "1.0.post1", "1.0", true),
            (&python, "1!0.1", "9.9", true),
            (&python, "1.0", "1.0.0", false),
            (&Source::Node, "rubbish", "1.0.0", false),
        ] {
            assert_eq!(
                is_newer(source, found, installed),
                expected,
                "{found} {installed}"
            );
        }
    }
}
