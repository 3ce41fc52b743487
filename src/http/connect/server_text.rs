//! The texts of the page of a server: the state of its values, and where the data of the person goes.

use serde::Deserialize;
use url::Url;

use crate::core::catalog::server::Server;
use crate::core::model::credential::{CredentialLocation, CredentialOwner};
use crate::core::model::remote::is_authentication_header;
use crate::core::model::server::{ServerConfig, Transport};
use crate::views::connection::SlotView;

/// The longest name that a server gives itself on the page, in characters.
const MAX_TITLE: usize = 100;

/// Returns whether a slot is filled, in one sentence.
pub(super) fn slot_state(slot: &SlotView) -> String {
    let is_shared = slot.owner == CredentialOwner::Shared;
    let by = if is_shared {
        " by an administrator, for all users"
    } else {
        ""
    };
    match (slot.set, &slot.set_at, slot.required) {
        (true, Some(time), _) => format!("Set{by} on {time}."),
        (true, None, _) => format!("Set{by}."),
        (false, _, true) if is_shared => {
            "Not set, and required: calls are refused until an administrator sets it.".into()
        }
        (false, _, true) => "Not set, and required: calls are refused until you set it.".into(),
        (false, _, false) if is_shared => "Not set. An administrator can set it.".into(),
        (false, _, false) => "Not set. You can leave it out.".into(),
    }
}

/// Returns the way in which a value reaches the server.
pub(super) fn slot_use(slot: &SlotView) -> &'static str {
    match slot.location {
        CredentialLocation::Argument => "The server gets it as an argument of each tool call.",
        CredentialLocation::Env => "The server gets it as a variable of its process.",
        CredentialLocation::Header => "The server gets it as a header of each request.",
        CredentialLocation::Query => "The server gets it in the URL of each request.",
    }
}

/// Returns where the data of the person goes: the host of the URL, or the file name of the program. Arguments and queries
/// may contain secrets.
pub(super) fn destination(config: &ServerConfig) -> String {
    match &config.transport {
        Transport::Stdio { command, .. } => {
            let program = command.rsplit(['/', '\\']).next().unwrap_or_default();
            format!("Your data goes to the program {program}, which runs at this deployment.")
        }
        Transport::StreamableHttp(remote) => {
            let url = Url::parse(&remote.url).ok();
            let host = url
                .as_ref()
                .and_then(Url::host_str)
                .unwrap_or("an unknown host");
            format!("Your data goes to {host}.")
        }
    }
}

/// Returns the name that the server gives itself.
pub(super) fn own_title(server: &Server) -> Option<String> {
    #[derive(Deserialize)]
    struct ServerInfo {
        title: Option<String>,
        name: Option<String>,
    }
    let info = server.description.as_ref()?.server_info.as_ref()?;
    let info: ServerInfo = serde_json::from_str(info.raw().get()).ok()?;
    let title = info.title.or(info.name)?;
    let title: String = title
        .chars()
        .filter(|character| !character.is_control())
        .take(MAX_TITLE)
        .collect();
    (!title.trim().is_empty()).then_some(title)
}

/// Returns whether a server may ask for OAuth. If a server gets another credential and replies 401, that credential is
/// wrong, and OAuth tokens would not help.
pub(super) fn asks_for_oauth(config: &ServerConfig) -> bool {
    let Some(remote) = config.remote() else {
        return false;
    };
    let mut headers = remote.headers.keys();
    let authenticates = config.sends_credentials()
        || remote.user_info.is_some()
        || headers.any(|name| is_authentication_header(name));
    !authenticates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::remote::Remote;

    #[test]
    fn a_page_names_the_host_or_the_program_and_nothing_else() {
        for command in ["/opt/secret-dir/tool", "tool", "C:\\bin\\tool"] {
            let config = ServerConfig::new(Transport::Stdio {
                command: command.into(),
                args: vec!["--key=s3cret".into()],
                env: [("KEY".to_owned(), "s3cret".to_owned())].into(),
            });
            assert_eq!(
                destination(&config),
                "Your data goes to the program tool, which runs at this deployment."
            );
        }
        let remote = Remote::new("https://***@api.example.com:8443/path/s3cret?key=s3cret");
        let config = ServerConfig::new(Transport::StreamableHttp(remote));
        assert_eq!(destination(&config), "Your data goes to api.example.com.");
    }

    #[test]
    fn a_server_with_a_credential_of_its_own_asks_for_no_oauth() {
        let config = |url: &str| ServerConfig::new(Transport::StreamableHttp(Remote::new(url)));
        assert!(asks_for_oauth(&config("https://h.example/mcp")));
        for (location, asks) in [("header", false), ("query", false), ("argument", true)] {
            let mut declared = config("https://h.example/mcp");
            let credential = serde_json::json!({ "name": "KEY", "in": location });
            declared.credentials = vec![serde_json::from_value(credential).expect("a credential")];
            assert_eq!(asks_for_oauth(&declared), asks, "{location}");
        }
        let program = ServerConfig::new(Transport::Stdio {
            command: "tool".into(),
            args: vec![],
            env: [].into(),
        });
        assert!(!asks_for_oauth(&program));
    }
}
