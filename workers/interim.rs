//! Passes the progress of one tool call on to its caller, without secrets.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::mcp::ProgressListener;
use super::redact::Redactor;
use crate::core::json_object::without_member;
use crate::ports::bus::{Interim, InterimSender};
use crate::ports::interim::MAX_MESSAGE;

/// The id of the request that a notification concerns. The caller has a token of its own.
const PROGRESS_TOKEN: &str = "progressToken";

/// Masks each progress notification and sends it to the caller.
pub(super) struct ProgressRelay {
    redactor: Arc<Redactor>,
    interim: InterimSender,
}

impl ProgressRelay {
    /// Returns the listener of one call.
    pub(super) fn listener(
        redactor: Arc<Redactor>,
        interim: InterimSender,
    ) -> Arc<dyn ProgressListener> {
        Arc::new(Self { redactor, interim })
    }
}

impl ProgressListener for ProgressRelay {
    fn on_progress(&self, params: &RawValue) {
        if params.get().len() > MAX_MESSAGE {
            return self.interim.count_dropped();
        }
        if let Some(params) = without_member(params, PROGRESS_TOKEN) {
            let masked = self.redactor.mask_json(&params);
            // A number outside the range of JSON parsers is masked as a text, which may end in text that is no JSON.
            if serde_json::from_str::<&RawValue>(&masked).is_err() {
                return self.interim.count_dropped();
            }
            self.interim.send(Interim::Progress(Bytes::from(masked)));
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ValueId;
    use crate::ports::bus::{InterimReceiver, interim_channel};

    const SECRET: &str = "planted-secret-71";
    const NUMBER: &str = "471147114711";

    fn relay() -> (Arc<dyn ProgressListener>, InterimReceiver) {
        let redactor = Arc::<Redactor>::default();
        for secret in [SECRET, NUMBER] {
            redactor.hold(ValueId(Uuid::new_v4()), secret);
        }
        let (sender, receiver) = interim_channel();
        (ProgressRelay::listener(redactor, sender), receiver)
    }

    fn received(receiver: &mut InterimReceiver) -> Option<String> {
        let Interim::Progress(params) = receiver.try_recv()? else {
            panic!("a request");
        };
        Some(String::from_utf8(params.to_vec()).expect("UTF-8"))
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
