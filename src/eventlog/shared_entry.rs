//! Entries that travel with a hint, so that other processes fold them without a read of the log.
//!
//! A process folds such an entry only if the deployment signed it and if it follows the newest entry of this process. Otherwise
//! the process reads the log.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::core::event::Entry;
use crate::core::ids::{CommandId, Position};
use crate::ports::bus::{EntrySigner, SignedEntry};

#[derive(Serialize)]
struct OutgoingEntry<'a> {
    /// The identity of the log.
    log: &'a str,
    /// The last command of the entry before it. It shows that the sender and the receiver have the same log so far.
    previous: CommandId,
    entry: &'a Entry,
}

#[derive(Deserialize)]
struct IncomingEntry {
    log: String,
    previous: CommandId,
    entry: Entry,
}

/// Signs and verifies entries that follow the newest entry of this process.
#[derive(Default)]
pub(super) struct SharedEntries {
    /// The identity of the log and the signer, in a deployment with many processes.
    signer: OnceLock<(String, Arc<dyn EntrySigner>)>,
    /// The newest entry that this process has folded, and its last command.
    newest: Mutex<Option<(Position, CommandId)>>,
}

impl SharedEntries {
    /// Begins to sign and to verify.
    pub(super) fn start(&self, log: String, signer: Arc<dyn EntrySigner>) {
        // A second signer has the same keys.
        let _ = self.signer.set((log, signer));
    }

    /// Records the newest entry of the catalog. Without an entry, the next one must be read.
    pub(super) fn record(&self, newest: Option<&Entry>) {
        let last =
            newest.and_then(|entry| Some((entry.position, entry.commits.last()?.command_id)));
        *self.newest.lock() = last;
    }

    /// Returns the last command of the entry before `position`, if this process has folded exactly that entry.
    fn previous(&self, position: Position) -> Option<CommandId> {
        let (newest, command) = (*self.newest.lock())?;
        (newest.next() == position).then_some(command)
    }

    /// Signs an entry of this process before it is recorded. Returns `None` if other processes must read the entry.
    pub(super) fn sign(&self, entry: &Entry) -> Option<SignedEntry> {
        let (log, signer) = self.signer.get()?;
        let previous = self.previous(entry.position)?;
        if data_bytes(entry) > SignedEntry::MAX_TEXT {
            return None;
        }
        let outgoing = OutgoingEntry {
            log,
            previous,
            entry,
        };
        let text = serde_json::to_string(&outgoing).ok()?;
        // JSON of a server keeps its line breaks, and a hint has one line.
        if text.len() > SignedEntry::MAX_TEXT || text.contains(['\r', '\n']) {
            return None;
        }
        Some(SignedEntry {
            position: entry.position,
            signature: signer.sign_entry(&text)?,
            text: text.into(),
        })
    }

    /// Returns an entry of another process, or `None` if this process must read it.
    pub(super) fn verify(&self, shared: &SignedEntry) -> Option<Entry> {
        let previous = self.previous(shared.position)?;
        let (log, signer) = self.signer.get()?;
        if !signer.is_signed_entry(&shared.text, &shared.signature) {
            return None;
        }
        let incoming: IncomingEntry = serde_json::from_str(&shared.text).ok()?;
        let follows = incoming.log == *log
            && incoming.previous == previous
            && incoming.entry.position == shared.position;
        follows.then_some(incoming.entry)
    }
}

fn data_bytes(entry: &Entry) -> usize {
    let events = entry.commits.iter().flat_map(|commit| &commit.events);
    events.map(|event| event.data.get().len()).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::*;
    use crate::core::event::{Actor, Commit, StoredEvent};

    /// Signs with the key and the text itself.
    struct Plain(usize);

    impl EntrySigner for Plain {
        fn sign_entry(&self, text: &str) -> Option<Bytes> {
            Some(format!("{} {text}", self.0).into())
        }

        fn is_signed_entry(&self, text: &str, signature: &[u8]) -> bool {
            self.sign_entry(text)
                .is_some_and(|expected| expected == signature)
        }
    }

    fn entry(position: u64, command: u128) -> Entry {
        Entry {
            position: Position(position),
            at: 1,
            commits: vec![Commit {
                command_id: CommandId(Uuid::from_u128(command)),
                actor: Actor::worker(),
                events: vec![],
            }],
        }
    }

    fn with_data(data: &str) -> Entry {
        let mut entry = entry(5, 50);
        entry.commits[0].events.push(StoredEvent {
            type_name: "server.described".into(),
            v: 1,
            subject: "server/1".into(),
            data: RawValue::from_string(data.to_owned()).expect("JSON"),
        });
        entry
    }

    fn process(key: usize, newest: &Entry) -> SharedEntries {
        process_on("a log", key, newest)
    }

    fn process_on(log: &str, key: usize, newest: &Entry) -> SharedEntries {
        let shared = SharedEntries::default();
        shared.start(log.to_owned(), Arc::new(Plain(key)));
        shared.record(Some(newest));
        shared
    }

    #[test]
    fn an_entry_that_follows_is_taken() {
        let signed = process(1, &entry(4, 40))
            .sign(&entry(5, 50))
            .expect("signed");
        let taken = process(1, &entry(4, 40)).verify(&signed).expect("verified");
        assert_eq!(taken.position, Position(5));
        assert_eq!(taken.commits[0].command_id, CommandId(Uuid::from_u128(50)));
    }

    #[test]
    fn an_entry_of_another_log_or_deployment_or_position_is_not_taken() {
        let signed = process(1, &entry(4, 40))
            .sign(&entry(5, 50))
            .expect("signed");
        assert!(
            process(1, &entry(4, 41)).verify(&signed).is_none(),
            "another log"
        );
        assert!(
            process(2, &entry(4, 40)).verify(&signed).is_none(),
            "another key"
        );
        assert!(process(1, &entry(3, 40)).verify(&signed).is_none(), "a gap");
        assert!(
            process(1, &entry(5, 50)).verify(&signed).is_none(),
            "a repeat"
        );
        let moved = SignedEntry {
            position: Position(6),
            ..signed.clone()
        };
        assert!(
            process(1, &entry(5, 40)).verify(&moved).is_none(),
            "another position"
        );
        let unknown = SharedEntries::default();
        unknown.start("a log".to_owned(), Arc::new(Plain(1)));
        assert!(unknown.verify(&signed).is_none(), "no entry so far");
    }

    #[test]
    fn a_changed_text_is_not_taken() {
        let signed = process(1, &entry(4, 40)).sign(&entry(5, 50));
        let mut changed = signed.expect("signed");
        changed.text = changed.text.replace("\"at\":1", "\"at\":2").into();
        assert!(process(1, &entry(4, 40)).verify(&changed).is_none());
    }

    #[test]
    fn an_entry_of_a_copy_of_the_log_is_not_taken() {
        let signed = process_on("a copy", 1, &entry(4, 40)).sign(&entry(5, 50));
        let signed = signed.expect("signed");
        assert!(process(1, &entry(4, 40)).verify(&signed).is_none());
    }

    #[test]
    fn a_large_entry_and_one_with_line_breaks_are_not_signed() {
        let sender = process(1, &entry(4, 40));
        assert!(sender.sign(&with_data("{}")).is_some());
        for data in ["{\n}", "[1,\r2]", &format!("\"{}\"", "x".repeat(20_000))] {
            assert!(sender.sign(&with_data(data)).is_none(), "{data:.9}");
        }
        let mut many = entry(5, 50);
        many.commits = vec![many.commits[0].clone(); 200];
        assert!(sender.sign(&many).is_none());
    }
}
