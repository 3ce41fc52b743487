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

/// The longest text of an entry in a hint, in bytes. Listeners keep about a thousand hints.
const MAX_TEXT: usize = 16 << 10;

#[derive(Serialize)]
struct OutgoingEntry<'a> {
    /// The last command of the entry before it. It shows that the sender and the receiver have the same log.
    previous: CommandId,
    entry: &'a Entry,
}

#[derive(Deserialize)]
struct IncomingEntry {
    previous: CommandId,
    entry: Entry,
}

/// Signs and verifies entries that follow the newest entry of this process.
#[derive(Default)]
pub(super) struct SharedEntries {
    signer: OnceLock<Arc<dyn EntrySigner>>,
    /// The newest entry that this process has folded, and its last command.
    newest: Mutex<Option<(Position, CommandId)>>,
}

impl SharedEntries {
    /// Begins to sign and to verify.
    pub(super) fn start(&self, signer: Arc<dyn EntrySigner>) {
        // A second signer has the same keys.
        let _ = self.signer.set(signer);
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

    /// Signs an entry of this process before it is recorded. Returns `None` if the others must read it.
    pub(super) fn sign(&self, entry: &Entry) -> Option<SignedEntry> {
        let signer = self.signer.get()?;
        let previous = self.previous(entry.position)?;
        let text = serde_json::to_string(&OutgoingEntry { previous, entry }).ok()?;
        if text.len() > MAX_TEXT {
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
        let signer = self.signer.get()?;
        if !signer.is_signed_entry(&shared.text, &shared.signature) {
            return None;
        }
        let incoming: IncomingEntry = serde_json::from_str(&shared.text).ok()?;
        let follows = incoming.previous == previous && incoming.entry.position == shared.position;
        follows.then_some(incoming.entry)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::core::event::{Actor, Commit};

    /// Signs with the number of bytes.
    struct Length(usize);

    impl EntrySigner for Length {
        fn sign_entry(&self, text: &str) -> Option<Bytes> {
            Some((text.len() + self.0).to_string().into())
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

    fn process(key: usize, newest: &Entry) -> SharedEntries {
        let shared = SharedEntries::default();
        shared.start(Arc::new(Length(key)));
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
        unknown.start(Arc::new(Length(1)));
        assert!(unknown.verify(&signed).is_none(), "no entry so far");
    }

    #[test]
    fn a_large_entry_is_not_signed() {
        let mut large = entry(5, 50);
        large.commits = vec![large.commits[0].clone(); 200];
        assert!(process(1, &entry(4, 40)).sign(&large).is_none());
    }
}
