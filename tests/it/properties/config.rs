//! Configuration: reading it never panics, and an error never repeats a value.

use proptest::prelude::*;

use super::cases;
use mcp_api::config::{Config, Env, variables};

/// A secret in a variable or line.
const MARK: &str = "zQ7xSECRETx7Qz";

/// Any variable except `HOST`, because its value is looked up in the network.
fn name() -> impl Strategy<Value = &'static str> {
    let names: Vec<_> = variables()
        .iter()
        .map(|variable| variable.name)
        .filter(|name| *name != "HOST")
        .collect();
    prop::sample::select(names)
}

/// A value that contains the mark.
fn marked() -> impl Strategy<Value = String> {
    ("[^\\x00]{0,8}", "[^\\x00]{0,8}").prop_map(|(before, after)| format!("{before}{MARK}{after}"))
}

/// Values that are almost valid, so that later checks run too.
fn plausible() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{1,25}( ?(b|k|kb|mb|gib|tb|s|ms|h|days))?",
        "(https?|ftp)://[a-z.:@\\[\\]0-9/]{0,12}",
        "[a-z_]{1,6}(=(trace|debug|off|nonsense))?(,[a-z]{0,5}){0,2}",
        "true|false|auto|json|[0-9a-f]{64}|[!-~]{16}",
        ".{0,20}",
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn an_error_never_contains_the_value(name in name(), value in marked()) {
        let read = Config::read(&Env::from_pairs([(name.to_owned(), value)]));
        if let Err(error) = &read {
            // MongoDB without a key is an error of SECRETS_KEY.
            let keyless = name.starts_with("MONGO_") && error.name == "SECRETS_KEY";
            prop_assert!(error.name == name || keyless, "{}", error);
        }
        let secret = ["ADMIN_TOKEN", "SECRETS_KEY", "SECRETS_KEYS_OLD"].contains(&name);
        if secret || read.is_err() {
            prop_assert!(!format!("{read:?}").contains(MARK), "{:?}", read);
        }
        if let Err(error) = read {
            prop_assert!(!error.to_string().contains(MARK), "{}", error);
        }
    }

    #[test]
    fn any_values_are_read_or_refused(pairs in prop::collection::hash_map(name(), plausible(), 0..6)) {
        let env = Env::from_pairs(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if let Err(error) = Config::read(&env) {
            prop_assert!(!error.name.is_empty() && !error.why.is_empty());
        }
    }

    #[test]
    fn any_text_is_a_file_or_refused_without_repeating_it(
        lines in prop::collection::vec(prop_oneof![
            marked(),
            (name(), marked()).prop_map(|(name, value)| format!("{name}={value}")),
            (name(), marked()).prop_map(|(name, value)| format!("export {name}=\"{value}")),
            (name(), marked()).prop_map(|(name, value)| format!("{name}='{value}' {MARK}")),
            ".{0,30}",
        ], 0..6)
    ) {
        if let Err(error) = Env::from_text(lines.join("\n").as_bytes()) {
            prop_assert!(!format!("{error} {error:?}").contains(MARK), "{}", error);
        }
    }

    #[test]
    fn any_bytes_are_a_file_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Env::from_text(&bytes).map(|env| env.has("PORT"));
    }
}
