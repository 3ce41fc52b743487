//! `GET /events`: the log, page by page or as a stream.

pub mod broadcaster;
mod pages;
mod stream;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::ACCEPT;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::view::{EventId, EventView};
use super::respond::json::{ApiError, Success, success};
use super::state::ApiState;
use crate::core::failure::Failure;
use crate::eventlog::history::PointInTime;
use crate::views::failure::ErrorBody;

const LIMIT: usize = 1000;
/// How long this process may take to read what another facade has already told.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Which part of the log.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// The id of the last event that the client knows; the beginning of the log if absent or `0`.
    after: Option<String>,
    /// Events in the answer: 1 to 1000, 100 where absent; a stream has no limit.
    limit: Option<usize>,
    /// Events of this subject alone, such as `server/everything`. A page may then have fewer than `limit`
    /// events, or none, while `next` goes on.
    subject: Option<String>,
    /// Events up to this position or time, such as `12` or `2026-01-31T12:00:00Z`; not of a stream.
    at: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Events {
    events: Vec<EventView>,
    /// The `after` of the next page; the same again at the end.
    next: String,
}

/// What has happened, in order. With `Accept: text/event-stream` it goes on as it happens.
#[utoipa::path(get, operation_id = "read_events", path = "/events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "A page; or, as text/event-stream, the events as they happen", body = Success<Events>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody)))]
pub async fn read(
    State(facade): State<Arc<ApiState>>,
    part: Result<Query<EventsQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(EventsQuery {
        after,
        limit,
        subject,
        at,
    }) = part.map_err(|error| Failure::invalid(error.body_text()))?;
    let accepts = request
        .headers()
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or_default();
    let streams = accepts.contains("text/event-stream");
    let last = request
        .headers()
        .get("last-event-id")
        .filter(|_| streams)
        .map(|id| id.to_str().unwrap_or_default());
    let after: EventId = match last.or(after.as_deref()) {
        None | Some("0") => EventId::default(),
        Some(id) => id.parse()?,
    };
    // Another facade may have told what this one is about to read.
    if !facade.projection().wait_for(after.position, CATCH_UP).await {
        // Whoever waited there would miss what is appended until the log gets there.
        let head = facade.projection().position();
        return Err(Failure::invalid(format!(
            "after is past the end of the log, which is at {head}"
        ))
        .into());
    }
    if streams {
        if at.is_some() {
            return Err(
                Failure::invalid("at is of pages: a stream goes on with what will happen").into(),
            );
        }
        return Ok(stream::open(facade, after, subject));
    }
    let limit = limit.unwrap_or(100);
    if !(1..=LIMIT).contains(&limit) {
        return Err(Failure::invalid(format!("limit must be 1 to {LIMIT}")).into());
    }
    let until = match at {
        Some(at) => Some(
            PointInTime::parse(&at)?
                .position(facade.projection())
                .await?,
        ),
        None => None,
    };
    let (events, next) =
        pages::read(facade.projection(), after, limit, subject.as_deref(), until).await?;
    success(Events {
        events,
        next: next.to_string(),
    })
}
