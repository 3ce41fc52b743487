//! The text of an error with all its causes, for log lines and messages to the operator.

use std::error::Error;
use std::fmt::Write as _;

/// Returns the texts of an error and all its sources, joined with `: `. An error that already
/// repeats its source does not appear twice.
pub fn error_chain(error: &dyn Error) -> String {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        if !chain.contains(&text) {
            // Writing to a String cannot fail.
            let _ = write!(chain, ": {text}");
        }
        cause = source.source();
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("disk I/O error")]
    struct Cause;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the snapshot")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("the store failed")]
    struct Middle(#[source] Cause);

    #[derive(Debug, thiserror::Error)]
    #[error("the store failed: {0}")]
    struct Repeating(#[source] Cause);

    #[test]
    fn a_chain_names_every_cause() {
        let error = Outer(Middle(Cause));
        assert_eq!(
            error_chain(&error),
            "cannot read the snapshot: the store failed: disk I/O error"
        );
    }

    #[test]
    fn an_error_that_repeats_its_source_names_it_once() {
        let error = Repeating(Cause);
        assert_eq!(error_chain(&error), "the store failed: disk I/O error");
    }
}
