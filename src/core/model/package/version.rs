//! Which of two versions is the newer one, as npm and PyPI order them.

use super::Source;

/// Whether `found` is newer than `installed`. A version that cannot be read is newer than none.
pub fn newer(source: &Source, found: &str, installed: &str) -> bool {
    let newer = match source {
        Source::Node => compare::<semver::Version>(found, installed),
        Source::Python(_) => compare::<pep440_rs::Version>(found, installed),
    };
    newer.unwrap_or(false)
}

fn compare<V: std::str::FromStr + Ord>(found: &str, installed: &str) -> Option<bool> {
    Some(found.parse::<V>().ok()? > installed.parse::<V>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::package::PythonOptions;

    #[test]
    fn each_registry_has_its_own_order() {
        let python = Source::Python(PythonOptions::default());
        for (source, found, installed, newer_is) in [
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
                newer(source, found, installed),
                newer_is,
                "{found} {installed}"
            );
        }
    }
}
