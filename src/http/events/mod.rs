//! `GET /events`: the log as pages or as a stream.

mod batch;
pub(super) mod broadcaster;
mod pages;
mod stream;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::pages::{PageQuery, read_page, start_position};
use self::view::{EventId, EventView};
use super::auth::AuditCaller;
use super::extract::query::QueryParams;
use super::respond::json::{ApiError, Success, success};
use super::state::ApiState;
use crate::core::failure::Failure;
use crate::eventlog::history::PointInTime;
use crate::views::failure::ErrorBody;

/// The most events of one page, and the number without the parameter `limit`.
const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;
/// This process may need this long to fold an entry that another facade has shown already.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The part of the log that a request asks for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// The id of the last event that the client has. `0` or no value means the beginning of the log.
    after: Option<String>,
    /// The most events of the page: 1 to 1000, without a value 100. A stream has no limit.
    limit: Option<usize>,
    /// Only events of this subject, such as `server/everything`. A page can then have fewer than `limit` events,
    /// or none, while `next` advances.
    subject: Option<String>,
    /// Only events up to this position or time, such as `12` or `2026-01-31T12:00:00Z`. Not for a stream.
    at: Option<String>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(super) struct Events {
    events: Vec<EventView>,
    /// The `after` of the next page. At the end of the log it does not change.
    next: String,
}

/// Returns the events of the log in order. A page also ends after 4 MiB of event data. With
/// `Accept: text/event-stream`, the answer is a stream that continues with new events.
#[utoipa::path(
    get, operation_id = "read_events", path = "/events", tag = "events", params(EventsQuery),
    responses((
        status = 200, description = "A page of events, or a stream of events",
        content(
            (Success<Events> = "application/json"),
            (String = "text/event-stream"),
        ),
    ),
    (status = 410, description = "The log was shortened, and the next event is in an archive; `oldest` is the first position that is left", body = ErrorBody))
)]
pub(super) async fn read_events(
    State(state): State<Arc<ApiState>>,
    AuditCaller(caller): AuditCaller,
    QueryParams(query): QueryParams<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let is_stream = accepts_event_stream(&headers);
    let after = first_event_id(&query, &headers, is_stream)?;
    wait_for_event(&state, after).await?;
    if is_stream {
        if query.at.is_some() {
            return Err(Failure::invalid(
                "at cannot be used with a stream (Accept: text/event-stream); remove at",
            )
            .into());
        }
        let start = start_position(state.projection(), after).await?;
        let permit = state.acquire_stream_permit()?;
        return Ok(stream::open_stream(
            state,
            caller,
            permit,
            after,
            start,
            query.subject,
        ));
    }
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Failure::invalid(format!("limit must be 1 to {MAX_LIMIT}")).into());
    }
    let until = match query.at {
        Some(at) => Some(
            PointInTime::parse(&at)?
                .position(state.projection())
                .await?,
        ),
        None => None,
    };
    let page_query = PageQuery {
        after,
        limit,
        subject: query.subject.as_deref(),
        until,
    };
    let page = read_page(state.projection(), &page_query).await?;
    success(Events {
        events: page.events,
        next: page.next.to_string(),
    })
}

fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// Returns the last event that the client has. For a stream, `Last-Event-ID` replaces `after`,
/// because a browser repeats the URL when it connects again.
fn first_event_id(
    query: &EventsQuery,
    headers: &HeaderMap,
    is_stream: bool,
) -> Result<EventId, Failure> {
    let last_event_id = headers.get("last-event-id").filter(|_| is_stream);
    let id = match last_event_id {
        Some(id) => Some(id.to_str().unwrap_or_default()),
        None => query.after.as_deref(),
    };
    id.map_or_else(|| Ok(EventId::default()), str::parse)
}

/// Waits until this process has folded the event, because another facade may have shown it first.
/// A position past the end of the log is refused, because its client would miss every event until
/// the log gets there.
async fn wait_for_event(state: &ApiState, event: EventId) -> Result<(), Failure> {
    if state.projection().wait_for(event.position, CATCH_UP).await {
        return Ok(());
    }
    let head = state.projection().position();
    Err(Failure::invalid(format!(
        "after is past the end of the log; the log ends at {head}"
    )))
}
