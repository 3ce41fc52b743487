//! The time limits that a user sets, in milliseconds.

use crate::core::failure::Failure;

/// Applies if a user sets no `toolTimeout` or `startupTimeout`, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u64 = 60_000;
/// The longest time limit that a user may set: one day, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 86_400_000;

/// Checks a time limit in milliseconds. `field` is its name in the request.
///
/// # Errors
/// Fails if the limit is not 1 to [`MAX_TIMEOUT_MS`].
pub fn check_timeout(field: &str, value: Option<u64>) -> Result<(), Failure> {
    match value {
        Some(ms) if !(1..=MAX_TIMEOUT_MS).contains(&ms) => Err(Failure::invalid(format!(
            "{field} must be 1 to {MAX_TIMEOUT_MS} milliseconds"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_one_millisecond_to_one_day() {
        for good in [None, Some(1), Some(MAX_TIMEOUT_MS)] {
            assert!(check_timeout("toolTimeout", good).is_ok(), "{good:?}");
        }
        for bad in [0, MAX_TIMEOUT_MS + 1] {
            let failure = check_timeout("toolTimeout", Some(bad)).expect_err("a bad limit");
            assert!(failure.message.starts_with("toolTimeout must be 1 to"));
        }
    }
}
