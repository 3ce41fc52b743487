//! Secrets: values that a user stores for one server.

use crate::core::names::{SecretName, ServerName};

/// Returns the name of a secret without the prefix `<server name>.`, because both spellings mean the same secret.
pub fn plain_name(server: &ServerName, name: SecretName) -> SecretName {
    name.as_str()
        .strip_prefix(server.as_str())
        .and_then(|suffix| suffix.strip_prefix('.'))
        .and_then(|suffix| suffix.parse().ok())
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_with_its_server_is_the_same_secret() {
        let server: ServerName = "mcp.github".parse().expect("name");
        let plain = |text: &str| {
            plain_name(&server, text.parse().expect("name"))
                .as_str()
                .to_owned()
        };
        assert_eq!(plain("mcp.github.TOKEN"), "TOKEN");
        assert_eq!(plain("TOKEN"), "TOKEN");
        assert_eq!(plain("mcp.github."), "mcp.github.");
        assert_eq!(plain("other.TOKEN"), "other.TOKEN");
    }
}
