//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::MetricsCaller;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::ApiState;
use crate::core::command::{Area, ReadServerLogs};
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::ports::bus::Target;
use crate::ports::interim::{InterimKind, dropped_interim};
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

/// The longest wait of `/readyz` for the store and for each worker.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ready {
    /// The position of this process in the event log.
    #[schema(value_type = u64)]
    position: Position,
}

/// Report that the process runs.
#[utoipa::path(
    get, operation_id = "healthz", path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "The process runs", body = Success<EmptyBody>))
)]
pub(super) async fn healthz() -> Result<Response, ApiError> {
    success(EmptyBody {})
}

/// Report whether the bus, the store and a worker answer.
#[utoipa::path(
    get, operation_id = "readyz", path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "The process is ready", body = Success<Ready>),
        (status = 503, description = "`error` names all missing parts", body = ErrorBody),
    )
)]
pub(super) async fn readyz(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    if state.is_draining() {
        return Err(Failure::unavailable("Not ready: this process is draining").into());
    }
    let mut missing = Vec::new();
    let head = tokio::time::timeout(PROBE_LIMIT, state.projection().log().head()).await;
    if !matches!(head, Ok(Ok(_))) {
        missing.push("the store does not answer".to_owned());
    }
    if let Some(error) = state.projection().halted() {
        missing.push(error.to_string());
    }
    if let Err(failure) = probe_worker(&state).await {
        missing.push(format!("no worker answers ({failure})"));
    }
    if missing.is_empty() {
        return success(Ready {
            position: state.projection().position(),
        });
    }
    Err(Failure::unavailable(format!("Not ready: {}", missing.join("; "))).into())
}

/// Asks one worker. A worker subscribes to the area of servers last, so its other areas are ready
/// too.
async fn probe_worker(state: &ApiState) -> Result<(), Failure> {
    let target = Target::AnyWorker(Area::Servers);
    let command = ReadServerLogs { servers: vec![] };
    state.send_once(target, &command, PROBE_LIMIT).await?;
    Ok(())
}

/// Read the metrics in the OpenMetrics text format.
#[utoipa::path(
    get, operation_id = "metrics", path = "/metrics", tag = "health",
    responses((
        status = 200, description = "The metrics of this process",
        body = String, content_type = "application/openmetrics-text",
    ))
)]
pub(super) async fn metrics(
    State(state): State<Arc<ApiState>>,
    _caller: MetricsCaller,
) -> Result<Response, ApiError> {
    let metrics = state.metrics();
    metrics.log_position.set(state.projection().position().0);
    let waiting = state.catalog().jobs.waiting();
    metrics.jobs_waiting.set(waiting as u64);
    let running = state.catalog().jobs.running();
    metrics.jobs_running.set(running as u64);
    metrics.jobs_on_bus.set(state.pending_jobs().await as u64);
    metrics
        .asks_refused
        .inner()
        .store(state.refused_asks(), Ordering::Relaxed);
    for kind in InterimKind::ALL {
        metrics
            .interim_dropped(kind.as_str())
            .inner()
            .store(dropped_interim(kind), Ordering::Relaxed);
    }
    let text = metrics.render().map_err(internal_error)?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}
