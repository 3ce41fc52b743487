//! The notifications of a stream without an end: their kinds and their texts.

use bytes::Bytes;

use super::answer::event;
use crate::core::json_object::ObjectWriter;
use crate::core::model::upstream_change::ChangedPart;

/// A list that may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    Tools,
    Prompts,
    Resources,
}

impl ListKind {
    /// The lists whose entries no catalog holds.
    pub(super) const OF_SERVERS: [Self; 2] = [Self::Prompts, Self::Resources];

    /// Returns the capability of a server with such a list.
    pub(super) fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
        }
    }

    /// Returns whether a change that a server reports is a change of this list.
    pub(super) fn is_changed_by(self, part: &ChangedPart) -> bool {
        match self {
            Self::Tools => false,
            Self::Prompts => *part == ChangedPart::Prompts,
            Self::Resources => *part == ChangedPart::Resources,
        }
    }
}

/// The lists whose changes a client wants to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WantedLists {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
}

impl WantedLists {
    pub(super) const ALL: Self = Self {
        tools: true,
        prompts: true,
        resources: true,
    };

    pub(super) fn has(self, kind: ListKind) -> bool {
        match kind {
            ListKind::Tools => self.tools,
            ListKind::Prompts => self.prompts,
            ListKind::Resources => self.resources,
        }
    }
}

/// Writes the notifications of one stream.
pub(super) struct NoticeWriter {
    /// The raw id of the subscription, which every notification to a modern client repeats.
    pub subscription: Option<String>,
}

impl NoticeWriter {
    /// Returns the notification about a changed list as an event.
    pub(super) fn list_changed(&self, kind: ListKind) -> Bytes {
        let method = format!("notifications/{}/list_changed", kind.capability());
        self.notification(&method, ObjectWriter::with_capacity(128))
    }

    /// Returns the notification about a changed resource as an event. The URI is that of the client.
    pub(super) fn updated(&self, uri: &str) -> Bytes {
        let mut params = ObjectWriter::with_capacity(uri.len() + 128);
        params.text("uri", uri);
        self.notification("notifications/resources/updated", params)
    }

    fn notification(&self, method: &str, mut params: ObjectWriter) -> Bytes {
        let mut message = ObjectWriter::with_capacity(256);
        message.text("jsonrpc", "2.0");
        message.text("method", method);
        if let Some(id) = &self.subscription {
            let meta = format!(r#"{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
            params.raw("_meta", &meta);
        }
        let params = params.finish();
        if params != "{}" {
            message.raw("params", &params);
        }
        event(message.finish().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(writer: &NoticeWriter, kind: ListKind) -> String {
        String::from_utf8(writer.list_changed(kind).to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_notification_names_its_list_and_its_subscription() {
        let legacy = NoticeWriter { subscription: None };
        let expected = r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#;
        assert!(text(&legacy, ListKind::Prompts).contains(expected));
        let modern = NoticeWriter {
            subscription: Some("\"s\"".to_owned()),
        };
        let expected = r#""params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"}}}"#;
        assert!(text(&modern, ListKind::Resources).contains(expected));
        let updated = String::from_utf8(modern.updated("a:b").to_vec()).expect("UTF-8");
        let expected = r#"{"uri":"a:b","_meta":{"io.modelcontextprotocol/subscriptionId":"s"}}}"#;
        assert!(updated.contains(expected), "{updated}");
    }
}
