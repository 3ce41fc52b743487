//! The properties that the program fills from stored credentials. Clients do not see them.

use crate::core::catalog::server::Server;
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

/// Returns the names of the secrets that the server gets: those of its list, whether or not the user has set them, or
/// those that the user has set if the server has no list. A server with `hideSecretArguments: false` hides none.
pub(super) fn hidden_secrets<'a>(server: &'a Server, user: &UserName) -> Vec<&'a str> {
    if !server.config.hide_secret_arguments {
        return Vec::new();
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
