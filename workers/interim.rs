//! Passes the progress and the log lines of one tool call on to its caller, without secrets.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::mcp::{LogListener, ProgressListener};
use super::redact::Redactor;
use crate::core::json_object::{Members, text_of, without_member};
use crate::core::mcp::log_level::{LogLevel, WantedLog};
use crate::ports::bus::{Interim, InterimKind, InterimSender};
use crate::ports::interim::MAX_MESSAGE;

/// The id of the request that a notification concerns. The caller has a token of its own.
const PROGRESS_TOKEN: &str = "progressToken";

/// Masks each progress notification and sends it to the caller.
pub(super) struct ProgressRelay {
    redactor: Arc<Redactor>,
    interim: InterimSender,
}

impl ProgressRelay {
    /// Returns the listener of one call, if its caller takes progress.
    pub(super) fn listener(
        redactor: &Arc<Redactor>,
        interim: &InterimSender,
    ) -> Option<Arc<dyn ProgressListener>> {
        interim.kinds().progress.then(|| {
            let relay = Self {
                redactor: redactor.clone(),
                interim: interim.clone(),
            };
            Arc::new(relay) as Arc<dyn ProgressListener>
        })
    }
}

impl ProgressListener for ProgressRelay {
    fn on_progress(&self, params: &RawValue) {
        if params.get().len() > MAX_MESSAGE {
            return self.interim.count_dropped(InterimKind::Progress);
        }
        if let Some(params) = without_member(params, PROGRESS_TOKEN) {
            let masked = self.redactor.mask_json(&params);
            // A number outside the range of JSON parsers is masked as a text, which may end in text that is no JSON.
            if serde_json::from_str::<&RawValue>(&masked).is_err() {
                return self.interim.count_dropped(InterimKind::Progress);
            }
            self.interim.send(Interim::Progress(Bytes::from(masked)));
        }
    }
}

/// Masks each log line and sends it to the caller, if it is severe enough.
pub(super) struct LogRelay {
    redactor: Arc<Redactor>,
    interim: InterimSender,
    wanted: WantedLog,
}

impl LogRelay {
    /// Returns the listener of one call, if its caller takes log lines.
    pub(super) fn listener(
        redactor: &Arc<Redactor>,
        interim: &InterimSender,
    ) -> Option<Arc<dyn LogListener>> {
        let wanted = interim.kinds().log?;
        Some(Arc::new(Self {
            redactor: redactor.clone(),
            interim: interim.clone(),
            wanted,
        }))
    }

    /// Returns whether the caller takes a line. A line without a known level is no log message.
    fn takes(&self, params: &RawValue) -> bool {
        let members = Members::parse(params.get());
        let level = members.and_then(|members| members.get("level").and_then(text_of));
        let level = level.and_then(|level| LogLevel::parse(&level));
        level.is_some_and(|level| level >= self.wanted.level())
    }
}

impl LogListener for LogRelay {
    fn wanted(&self) -> WantedLog {
        self.wanted
    }

    fn on_log(&self, params: &RawValue) {
        if !self.takes(params) {
            return;
        }
        // The size comes first, because masking a large text takes long.
        let masked =
            (params.get().len() <= MAX_MESSAGE).then(|| self.redactor.mask_json(params.get()));
        // Masking can break a number outside the range of JSON parsers, as in progress.
        match masked.filter(|masked| serde_json::from_str::<&RawValue>(masked).is_ok()) {
            Some(masked) => self.interim.send(Interim::Log(Bytes::from(masked))),
            None => self.interim.count_dropped(InterimKind::Log),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ValueId;
    use crate::ports::bus::{InterimKinds, InterimReceiver, interim_channel, interim_channel_for};

    const SECRET: &str = "planted-secret-71";
    const NUMBER: &str = "471147114711";

    fn relay() -> (Arc<dyn ProgressListener>, InterimReceiver) {
        let redactor = Arc::<Redactor>::default();
        for secret in [SECRET, NUMBER] {
            redactor.hold(ValueId(Uuid::new_v4()), secret);
        }
        let (sender, receiver) = interim_channel();
        let relay = ProgressRelay::listener(&redactor, &sender);
        (relay.expect("a listener"), receiver)
    }

    fn received(receiver: &mut InterimReceiver) -> Option<String> {
        let message = receiver.try_recv()?;
        Some(String::from_utf8(message.params().to_vec()).expect("UTF-8"))
    }

    fn raw(text: String) -> Box<RawValue> {
        RawValue::from_string(text).expect("JSON")
    }

    #[test]
    fn progress_loses_its_token_and_its_secrets_and_nothing_else() {
        let (relay, mut receiver) = relay();
        relay.on_progress(&raw(
            r#"{"progressToken":1000,"progress":1.00,"total":1e400,"more":{"n":12345678901234567890123}}"#.into(),
        ));
        assert_eq!(
            received(&mut receiver).as_deref(),
            Some(r#"{"progress":1.00,"total":1e400,"more":{"n":12345678901234567890123}}"#)
        );
        relay.on_progress(&raw(format!(
            r#"{{"progress":1.00,"progressToken":1000,"message":"with {SECRET}","_meta":{{"n":2.50,"k":["{SECRET}"]}}}}"#
        )));
        assert_eq!(
            received(&mut receiver).as_deref(),
            Some(r#"{"progress":1.00,"message":"with ***","_meta":{"n":2.50,"k":["***"]}}"#)
        );
    }

    #[test]
    fn log_lines_below_the_level_of_the_caller_and_secrets_are_left_out() {
        let redactor = Arc::<Redactor>::default();
        redactor.hold(ValueId(Uuid::new_v4()), SECRET);
        let kinds = InterimKinds {
            progress: false,
            log: Some(WantedLog::From(LogLevel::Warning)),
        };
        let (sender, mut receiver) = interim_channel_for(kinds);
        let relay = LogRelay::listener(&redactor, &sender).expect("a listener");
        for (params, expected) in [
            (r#"{"level":"info","data":"a"}"#.to_owned(), None),
            (r#"{"data":"a"}"#.to_owned(), None),
            (r#"{"level":"loud","data":"a"}"#.to_owned(), None),
            (
                format!(r#"{{"data":["with {SECRET}",1.00],"level":"warning"}}"#),
                Some(r#"{"data":["with ***",1.00],"level":"warning"}"#),
            ),
            (
                r#"{"level":"emergency","logger":"l","data":{}}"#.to_owned(),
                Some(r#"{"level":"emergency","logger":"l","data":{}}"#),
            ),
        ] {
            relay.on_log(&raw(params));
            assert_eq!(received(&mut receiver).as_deref(), expected);
        }
        let (sender, _receiver) = interim_channel();
        assert!(LogRelay::listener(&redactor, &sender).is_none());
    }

    #[test]
    fn a_log_line_that_is_too_large_is_counted() {
        let kinds = InterimKinds {
            progress: false,
            log: Some(WantedLog::Default),
        };
        let (sender, receiver) = interim_channel_for(kinds);
        let relay = LogRelay::listener(&Arc::default(), &sender).expect("a listener");
        let text = "x".repeat(MAX_MESSAGE);
        relay.on_log(&raw(format!(r#"{{"level":"info","data":"{text}"}}"#)));
        assert_eq!(receiver.dropped(), 1);
    }

    #[test]
    fn progress_that_masking_breaks_is_counted() {
        let (relay, mut receiver) = relay();
        let params = format!(r#"{{"progressToken":1000,"progress":1e400,"n":{NUMBER}}}"#);
        relay.on_progress(&raw(params));
        assert_eq!(received(&mut receiver), None);
        assert_eq!(receiver.dropped(), 1);
    }

    #[test]
    fn progress_that_is_too_large_is_counted() {
        let (relay, mut receiver) = relay();
        let text = "x".repeat(MAX_MESSAGE);
        relay.on_progress(&raw(format!(
            r#"{{"progressToken":1000,"message":"{text}"}}"#
        )));
        assert_eq!(received(&mut receiver), None);
        assert_eq!(receiver.dropped(), 1);
    }
}
