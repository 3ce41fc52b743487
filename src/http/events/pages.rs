//! Reads pages of the log.

use super::view::{EventId, EventView, entry_views};
use crate::core::event::Entry;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::eventlog::projection::Projection;
use crate::eventlog::reader::{PositionParameter, ReadError, read_after};
use crate::eventlog::snapshot::load_beginning_head;
use crate::ports::event_log::ReadLimit;

/// One read of the log. A page needs few entries, and a listener at most reads one such part ahead.
pub(super) const READ_LIMIT: ReadLimit = ReadLimit {
    entries: 200,
    bytes: 256 << 10,
};
/// Entries that one request reads at most, because events of its subject may be rare.
const MAX_ENTRIES: usize = 20_000;
/// Bytes of event data after which a page ends, and bytes that one request reads at most.
const PAGE_BYTES: usize = 4 << 20;
const MAX_BYTES: usize = 64 << 20;

/// The filters of a page.
pub(super) struct PageQuery<'a> {
    pub after: EventId,
    /// The most events of the page.
    pub limit: usize,
    pub subject: Option<&'a str>,
    /// The last position of the page.
    pub until: Option<Position>,
}

/// A page of events, and the id after which the next page begins.
pub(super) struct EventPage {
    pub events: Vec<EventView>,
    pub next: EventId,
    bytes: usize,
}

/// Reads one page. A page with large events has fewer events than its limit.
///
/// # Errors
/// Returns `log_truncated` if the log was shortened and does not hold the next event any more, and
/// `unavailable` if the store does not answer.
pub(super) async fn read_page(
    projection: &Projection,
    query: &PageQuery<'_>,
) -> Result<EventPage, Failure> {
    let mut page = EventPage {
        events: Vec::new(),
        next: query.after,
        bytes: 0,
    };
    let mut position = start_position(projection, query.after).await?;
    let mut entries_read = 0;
    let mut bytes_read = 0;
    while entries_read < MAX_ENTRIES && bytes_read < MAX_BYTES {
        let entries = read_entries(projection, position, READ_LIMIT).await?;
        let Some(last) = entries.last() else { break };
        position = last.position;
        entries_read += entries.len();
        for entry in entries {
            bytes_read += stored_bytes(&entry);
            if query.until.is_some_and(|until| entry.position > until)
                || !page.add_entry(entry, query)?
            {
                return Ok(page);
            }
        }
    }
    Ok(page)
}

impl EventPage {
    /// Adds the events of an entry. Returns false if the page is full.
    fn add_entry(&mut self, entry: Entry, query: &PageQuery<'_>) -> Result<bool, Failure> {
        for (id, event) in entry_views(entry)? {
            if !query.after.is_before(id) {
                continue;
            }
            if query.subject.is_none_or(|subject| event.subject == subject) {
                if self.events.len() == query.limit || self.bytes >= PAGE_BYTES {
                    return Ok(false);
                }
                self.bytes += event.data_bytes();
                self.events.push(event);
            }
            self.next = id;
        }
        Ok(true)
    }
}

fn stored_bytes(entry: &Entry) -> usize {
    let commits = entry.commits.iter();
    let events = commits.flat_map(|commit| &commit.events);
    events.map(|event| event.data.get().len()).sum()
}

/// Returns the position after which a reader continues that has this event. The entry of the event is
/// read again, because it may hold further events.
///
/// # Errors
/// Returns `log_truncated` if the log was shortened and does not hold the next event any more, and
/// `unavailable` if the store does not answer.
pub(super) async fn start_position(
    projection: &Projection,
    event: EventId,
) -> Result<Position, Failure> {
    let start = Position(event.position.0.saturating_sub(1));
    let beginning = load_beginning_head(projection.log()).await;
    let Some(beginning) =
        beginning.map_err(|error| ReadError::from(error).into_failure(PositionParameter::After))?
    else {
        return Ok(start);
    };
    let last_removed = EventId {
        position: beginning.position,
        index: beginning.last_index,
    };
    if event < last_removed {
        return Err(beginning.failure(PositionParameter::After));
    }
    Ok(start.max(beginning.position))
}

/// Reads the entries after a position that this process has folded. An entry that it cannot fold
/// is never shown.
///
/// # Errors
/// Returns `log_truncated` if the next entry was removed, and `unavailable` if the store does not
/// answer.
pub(super) async fn read_entries(
    projection: &Projection,
    position: Position,
    limit: ReadLimit,
) -> Result<Vec<Entry>, Failure> {
    let head = projection.position();
    if position >= head {
        return Ok(vec![]);
    }
    let read = read_after(projection.log(), position, limit).await;
    let mut entries = read.map_err(|error| error.into_failure(PositionParameter::After))?;
    entries.retain(|entry| entry.position <= head);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::event::{Actor, Commit, Event, JobRequeued, StoredEvent};
    use crate::core::ids::{CommandId, JobId};

    /// An entry whose only event has this many bytes of data.
    fn large_entry(position: u64, bytes: usize) -> Entry {
        let event = Event::JobRequeued(JobRequeued {
            job: JobId(Uuid::nil()),
        });
        let mut stored: StoredEvent = event.encode().expect("encoded");
        let data = stored.data.get().to_owned();
        let padded = data.replacen('{', &format!("{{{}", " ".repeat(bytes)), 1);
        stored.data = serde_json::value::RawValue::from_string(padded).expect("JSON");
        Entry {
            position: Position(position),
            at: 0,
            commits: vec![Commit {
                command_id: CommandId(Uuid::nil()),
                actor: Actor::worker(),
                events: vec![stored],
            }],
        }
    }

    #[test]
    fn the_stored_bytes_of_an_entry_count_all_its_events() {
        assert!(stored_bytes(&large_entry(1, 1_000)) >= 1_000);
    }

    #[test]
    fn a_page_ends_after_its_bytes_and_the_next_page_continues() {
        let query = PageQuery {
            after: EventId::default(),
            limit: 1_000,
            subject: None,
            until: None,
        };
        let mut page = EventPage {
            events: Vec::new(),
            next: query.after,
            bytes: PAGE_BYTES,
        };
        assert!(
            !page
                .add_entry(large_entry(1, 10), &query)
                .expect("an entry")
        );
        assert_eq!(page.next, EventId::default());
        page.bytes = PAGE_BYTES - 1;
        assert!(
            page.add_entry(large_entry(1, 10), &query)
                .expect("an entry")
        );
        assert!(
            !page
                .add_entry(large_entry(2, 10), &query)
                .expect("an entry")
        );
        assert_eq!(page.events.len(), 1);
        assert_eq!(page.next.position, Position(1));
    }
}
