//! Names: an accepted name follows its rules, and an error never repeats a refused name.

use proptest::prelude::*;

use super::cases;
use mcp_api::core::model::secret::plain_name;
use mcp_api::core::names::{SecretName, ServerName, UserName};

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_server_name_is_safe_in_urls_and_files(text in "\\PC{0,70}|[A-Za-z0-9._/-]{0,70}|[A-Za-z0-9][A-Za-z0-9._-]{0,63}") {
        let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let safe = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let right = first && safe && text.len() <= 64;
        prop_assert_eq!(text.parse::<ServerName>().is_ok(), right);
    }

    #[test]
    fn a_text_name_has_no_control_characters(text in ".{0,300}|[\\x00-\\x20a]{0,5}|[😀ü]{250,260}") {
        let count = text.chars().count();
        let right = (1..=256).contains(&count) && !text.contains(char::is_control);
        prop_assert_eq!(text.parse::<UserName>().is_ok(), right);
    }

    #[test]
    fn a_name_is_stored_as_it_is(text in "[^\\p{Cc}]{1,40}") {
        let name: SecretName = text.parse().expect("a name");
        prop_assert_eq!(name.as_str(), &text);
        let stored = serde_json::to_string(&name).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<SecretName>(&stored).expect("a name"), name);
    }

    #[test]
    fn a_refused_name_is_not_repeated(text in "[A-Z]{8,12} sk-[a-z0-9]{20}") {
        let refused = text.parse::<ServerName>().expect_err("it has a space").to_string();
        prop_assert!(!refused.contains(&text[..8]) && !refused.contains(&text[text.len() - 20..]));
    }

    #[test]
    fn the_dotted_form_of_any_secret_equals_its_plain_form(server in "[a-z][a-z.]{0,8}", name in "[^\\p{Cc}]{1,40}") {
        let server: ServerName = server.parse().expect("a name");
        let dotted: SecretName = format!("{server}.{name}").parse().expect("a name");
        let plain = plain_name(&server, dotted);
        prop_assert_eq!(plain.as_str(), name);
    }
}
