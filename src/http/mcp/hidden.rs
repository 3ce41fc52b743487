//! The properties that the program fills from stored credentials. Clients do not see them.

use crate::core::catalog::server::Server;
use crate::core::model::credential::{Credential, CredentialLocation};
use crate::core::model::google::{APPLICATION, TOKENS, is_marked, needs_tokens};
use crate::core::names::UserName;

/// Returns the names of the properties that a tool does not show to a user.
pub(super) fn hidden_properties<'a>(
    server: &'a Server,
    user: &UserName,
    tool: &str,
) -> Vec<&'a str> {
    let mut hidden = hidden_secrets(server, user);
    if hides_google_objects(server) && needs_tokens(&server.config, tool) {
        hidden.extend([TOKENS, APPLICATION]);
    }
    hidden
}

/// Returns whether tools of a Google server do not show the two objects that they get.
pub(super) fn hides_google_objects(server: &Server) -> bool {
    server.config.hide_secret_arguments && is_marked(&server.config)
}

/// Returns the names of the arguments that the program fills: those of the server's credentials or of its list of secrets,
/// whether or not the user has set them, or else those of the secrets that the user has set. A server with
/// `hideSecretArguments: false` hides none.
pub(super) fn hidden_secrets<'a>(server: &'a Server, user: &UserName) -> Vec<&'a str> {
    if !server.config.hide_secret_arguments {
        return Vec::new();
    }
    let credentials = &server.config.credentials;
    if !credentials.is_empty() {
        let arguments = credentials
            .iter()
            .filter(|credential| credential.location == CredentialLocation::Argument);
        return arguments.map(Credential::target).collect();
    }
    let listed = &server.config.secret_names;
    if !listed.is_empty() {
        return listed.iter().map(|name| name.as_str()).collect();
    }
    server
        .secrets_of(user.as_str())
        .iter()
        .map(|secret| secret.name.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::core::catalog::Catalog;
    use crate::core::event::{SecretSet, ServerRegistered};
    use crate::core::ids::{ServerId, ValueId};
    use crate::core::model::remote::Remote;
    use crate::core::model::server::{ServerConfig, Transport};

    /// Returns the properties that a server with these fields hides from ana, who has set the secrets `A` and `token`.
    fn hidden(fields: Value) -> Vec<String> {
        let server = ServerId(Uuid::from_u128(1));
        let mut config = serde_json::to_value(ServerConfig::new(Transport::StreamableHttp(
            Remote::new("https://h/mcp"),
        )))
        .expect("JSON");
        for (name, value) in fields.as_object().expect("an object") {
            config[name] = value.clone();
        }
        let mut catalog = Catalog::default();
        let registered = ServerRegistered {
            server,
            name: "crm".parse().expect("a name"),
            config: serde_json::from_value(config).expect("a configuration"),
            enabled: true,
        };
        catalog.apply(&registered.into());
        for name in ["A", "token"] {
            let set = SecretSet {
                server,
                server_name: "crm".parse().expect("a name"),
                user: Some("ana".parse().expect("a name")),
                name: name.parse().expect("a name"),
                value: ValueId(Uuid::from_u128(2)),
            };
            catalog.apply(&set.into());
        }
        let server = catalog.server("crm").expect("a server");
        let hidden = hidden_properties(server, &"ana".parse().expect("a name"), "tool");
        hidden.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn without_credentials_the_secrets_are_hidden() {
        assert_eq!(hidden(json!({})), ["A", "token"]);
        assert_eq!(hidden(json!({ "secretNames": ["B"] })), ["B"]);
    }

    #[test]
    fn the_targets_of_argument_credentials_are_hidden_and_nothing_else() {
        let credentials = json!([
            { "name": "token", "as": "api_key" },
            { "name": "ORG", "owner": "shared" },
            { "name": "A", "in": "header", "as": "x-a" },
            { "name": "B", "in": "query" },
        ]);
        assert_eq!(
            hidden(json!({ "credentials": credentials })),
            ["api_key", "ORG"]
        );
        let only_headers = json!([{ "name": "A", "in": "header", "as": "x-a" }]);
        assert!(hidden(json!({ "credentials": only_headers })).is_empty());
    }

    #[test]
    fn a_server_can_show_the_targets_of_its_credentials() {
        let fields = json!({ "credentials": [{ "name": "A" }], "hideSecretArguments": false });
        assert!(hidden(fields).is_empty());
    }
}
