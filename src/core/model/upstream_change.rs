//! Changes that an MCP server reports of itself: of its list of prompts, of its list of resources, and of one resource.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::ids::ServerId;
use crate::core::names::UserName;

/// The longest URI of a resource that clients can watch, in bytes.
pub const MAX_WATCHED_URI: usize = 2048;

/// A change that a server reports. Equal changes are one change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamChange {
    pub server: ServerId,
    /// The user whose connection brought the change. Absent: the connection serves all users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    #[serde(flatten)]
    pub part: ChangedPart,
}

/// The part of a server that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "uri", rename_all = "snake_case")]
pub enum ChangedPart {
    /// The list of prompts.
    Prompts,
    /// The list of resources or of their templates.
    Resources,
    /// The resource with this URI of the server.
    Resource(Arc<str>),
}

impl UpstreamChange {
    /// Returns whether the change concerns a user.
    pub fn concerns(&self, user: &UserName) -> bool {
        self.user.as_ref().is_none_or(|of_user| of_user == user)
    }
}

/// Returns whether a change of one resource is a change of another, watched one: a server may report a part of the resource
/// that a client watches (MCP 2025-11-25, `ResourceUpdatedNotification`).
pub fn is_part_of(changed: &str, watched: &str) -> bool {
    let Some(rest) = changed.strip_prefix(watched) else {
        return false;
    };
    rest.is_empty() || watched.ends_with('/') || rest.starts_with(['/', '#', '?'])
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_change_keeps_its_parts_on_the_wire() {
        let server = ServerId(Uuid::from_u128(7));
        for (user, part, expected) in [
            (None, ChangedPart::Prompts, r#""kind":"prompts""#),
            (Some("ana"), ChangedPart::Resources, r#""kind":"resources""#),
            (
                None,
                ChangedPart::Resource("a:b c".into()),
                r#""kind":"resource","uri":"a:b c""#,
            ),
        ] {
            let user = user.map(|name| name.parse().expect("a name"));
            let change = UpstreamChange { server, user, part };
            let json = serde_json::to_string(&change).expect("JSON");
            assert!(json.contains(expected), "{json}");
            assert_eq!(
                serde_json::from_str::<UpstreamChange>(&json).expect("a change"),
                change
            );
        }
    }

    #[test]
    fn a_connection_of_one_user_concerns_this_user_alone() {
        let user = |name: &str| name.parse::<UserName>().expect("a name");
        let mut change = UpstreamChange {
            server: ServerId(Uuid::nil()),
            user: Some(user("ana")),
            part: ChangedPart::Prompts,
        };
        assert!(change.concerns(&user("ana")) && !change.concerns(&user("ben")));
        change.user = None;
        assert!(change.concerns(&user("ben")));
    }

    #[test]
    fn a_resource_contains_its_parts_and_no_neighbor() {
        for (changed, watched, expected) in [
            ("file:///a", "file:///a", true),
            ("file:///a/b", "file:///a", true),
            ("file:///a/b", "file:///a/", true),
            ("file:///a#b", "file:///a", true),
            ("file:///ab", "file:///a", false),
            ("file:///a", "file:///a/b", false),
        ] {
            assert_eq!(
                is_part_of(changed, watched),
                expected,
                "{changed} {watched}"
            );
        }
    }
}
