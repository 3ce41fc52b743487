//! `GET /events`: the log, page by page or as a stream.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::ACCEPT;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::facade::Facade;
use super::reply::{ErrorBody, Refused, Success, success};
use crate::core::event::{Actor, Entry, Event};
use crate::core::failure::Failure;
use crate::core::names::{CommandId, Position};
use crate::telemetry::bug;

/// Appends read at once.
const PAGE: usize = 200;
const LIMIT: usize = 1000;
/// Silence after which a stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// Where an event stands: `<position>.<index>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct EventId {
    position: Position,
    index: usize,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.position, self.index)
    }
}

impl FromStr for EventId {
    type Err = Failure;
    fn from_str(text: &str) -> Result<Self, Failure> {
        let parsed = text.split_once('.').and_then(|(p, i)| Some((p.parse().ok()?, i.parse().ok()?)));
        let (position, index) = parsed
            .ok_or_else(|| Failure::invalid("after (or Last-Event-ID) must be the id of an event, such as 12.0"))?;
        Ok(Self { position: Position(position), index })
    }
}

/// Which part of the log.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// The id of the last event that is known already; all where absent.
    after: Option<String>,
    /// Events in the answer: 1 to 1000, 100 where absent; a stream has no limit.
    limit: Option<usize>,
}

/// Something that has happened.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// `<position>.<index>`.
    id: String,
    /// Milliseconds since 1970.
    at: u64,
    #[serde(rename = "type")]
    type_name: String,
    v: u16,
    subject: String,
    #[schema(value_type = String)]
    actor: Actor,
    #[schema(value_type = String)]
    command_id: CommandId,
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

#[derive(Serialize, ToSchema)]
pub struct Events {
    events: Vec<EventView>,
    /// The `after` of the next page.
    next: String,
}

/// What has happened, in order. With `Accept: text/event-stream` it goes on as it happens.
#[utoipa::path(get, operation_id = "read_events", path = "/events", tag = "events", params(Page),
    responses((status = 200, description = "A page; or, as text/event-stream, the events as they happen", body = Success<Events>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody)))]
pub async fn read(
    State(facade): State<Arc<Facade>>,
    page: Result<Query<Page>, QueryRejection>,
    request: Request,
) -> Result<Response, Refused> {
    let Query(page) = page.map_err(|error| Failure::invalid(error.body_text()))?;
    let accepts = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let streams = accepts.contains("text/event-stream");
    let last = request.headers().get("last-event-id").filter(|_| streams).map(|id| id.to_str().unwrap_or_default());
    let after: EventId = match last.or(page.after.as_deref()) {
        Some(id) => id.parse()?,
        None => EventId::default(),
    };
    if after.position > facade.follow.position() {
        // Whoever waited there would miss what is appended until the log gets there.
        let head = facade.follow.position();
        return Err(Failure::invalid(format!("after is past the end of the log, which is at {head}")).into());
    }
    if streams {
        let stream = follow(facade.clone(), after).map(Ok::<_, Infallible>);
        return Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE)).into_response());
    }
    let limit = page.limit.unwrap_or(100);
    if !(1..=LIMIT).contains(&limit) {
        return Err(Failure::invalid(format!("limit must be 1 to {LIMIT}")).into());
    }
    let (mut events, mut next) = (Vec::new(), after);
    while events.len() < limit {
        let (found, read_to) = read_after(&facade, next).await?;
        let ended = found.is_empty();
        for (id, event) in found.into_iter().take(limit - events.len()) {
            next = id;
            events.push(event);
        }
        if ended || read_to >= facade.follow.position() && next.position >= read_to {
            break;
        }
    }
    success(Events { events, next: next.to_string() })
}

/// The events after one, as far as one read of the log gives them, and the position it reached.
async fn read_after(facade: &Facade, after: EventId) -> Result<(Vec<(EventId, EventView)>, Position), Failure> {
    // The position itself is read again: events after `index` may stand there.
    let from = Position(after.position.0.saturating_sub(1));
    let entries = facade.follow.log().read(from, PAGE).await;
    let entries = entries.map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    let reached = entries.last().map_or(from, |entry| entry.position);
    let mut found = Vec::new();
    for entry in entries {
        for (id, event) in views(entry)? {
            if after == EventId::default() || id > after {
                found.push((id, event));
            }
        }
    }
    Ok((found, reached))
}

fn views(entry: Entry) -> Result<Vec<(EventId, EventView)>, Failure> {
    let events = entry
        .commits
        .into_iter()
        .flat_map(|commit| commit.events.into_iter().map(move |event| (commit.actor, commit.command_id, event)));
    let views = events.enumerate().map(|(index, (actor, command_id, stored))| {
        let id = EventId { position: entry.position, index };
        let data = Event::decode(&stored).map_err(bug)?.public_data(&stored).map_err(bug)?;
        let view = EventView {
            id: id.to_string(),
            at: entry.at,
            type_name: stored.type_name,
            v: stored.v,
            subject: stored.subject,
            actor,
            command_id,
            data,
        };
        Ok((id, view))
    });
    views.collect()
}

/// The log as a stream, until the listener leaves or the process ends. A listener that does not read
/// is not waited for: it reads on from where it was, or is dropped with its connection.
fn follow(facade: Arc<Facade>, after: EventId) -> impl Stream<Item = sse::Event> {
    let ending = facade.ending.clone();
    let moves = facade.follow.moves();
    let pages = stream::unfold((facade, moves, after), async |(facade, mut moves, mut after)| {
        loop {
            moves.borrow_and_update();
            match read_after(&facade, after).await {
                Ok((found, _)) if !found.is_empty() => {
                    if let Some((id, _)) = found.last() {
                        after = *id;
                    }
                    return Some((stream::iter(found.into_iter().filter_map(sse_event)), (facade, moves, after)));
                }
                Ok(_) => moves.changed().await.ok()?,
                // The listener comes back with its Last-Event-ID.
                Err(_) => return None,
            }
        }
    });
    pages.flatten().take_until(ending.cancelled_owned())
}

fn sse_event((id, event): (EventId, EventView)) -> Option<sse::Event> {
    sse::Event::default().id(id.to_string()).event(&event.type_name).json_data(&event).ok()
}
