//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::ApiState;
use crate::core::command::{Area, ReadServerLogs};
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::ports::bus::Target;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

/// How long each thing is waited for.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    #[schema(value_type = u64)]
    position: Position,
}

/// The process is up.
#[utoipa::path(get, operation_id = "healthz", path = "/healthz", tag = "health", security(()), responses((status = 200, description = "Done", body = Success<EmptyBody>)))]
pub async fn healthz() -> Result<Response, ApiError> {
    success(EmptyBody {})
}

/// Bus, store and a worker can be reached; otherwise what is missing.
#[utoipa::path(get, operation_id = "readyz", path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "Done", body = Success<Ready>), (status = 503, description = "Something is missing; `error` says what", body = ErrorBody)))]
pub async fn readyz(State(facade): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    if facade.leaving.load(Ordering::Relaxed) {
        return Err(Failure::unavailable("Not ready: this process is draining").into());
    }
    let mut missing = Vec::new();
    if !matches!(
        tokio::time::timeout(LIMIT, facade.projection.log().head()).await,
        Ok(Ok(_))
    ) {
        missing.push("the store does not answer".to_owned());
    }
    if let Some(unreadable) = facade.projection.halted() {
        missing.push(unreadable.to_string());
    }
    // A worker subscribes to the area of servers last, so its other areas are ready too.
    let question = ReadServerLogs { servers: vec![] };
    let target = Target::AnyWorker(Area::Servers);
    if let Err(failure) = facade.commands.send_to(target, &question, LIMIT).await {
        missing.push(format!("no worker answers ({failure})"));
    }
    if missing.is_empty() {
        return success(Ready {
            position: facade.projection.position(),
        });
    }
    Err(Failure::unavailable(format!("Not ready: {}", missing.join("; "))).into())
}

/// Figures in the Prometheus text format.
#[utoipa::path(get, operation_id = "metrics", path = "/metrics", tag = "health", responses((status = 200, description = "Done", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(facade): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    facade
        .metrics
        .log_position
        .set(facade.projection.position().0);
    let (waiting, running) = (
        facade.projection.catalog().jobs.waiting(),
        facade.projection.catalog().jobs.running(),
    );
    facade.metrics.jobs_waiting.set(waiting as u64);
    facade.metrics.jobs_running.set(running as u64);
    facade
        .metrics
        .jobs_on_bus
        .set(facade.bus.pending_jobs().await as u64);
    facade
        .metrics
        .asks_refused
        .inner()
        .store(facade.bus.refused_asks(), Ordering::Relaxed);
    let text = facade.metrics.render().map_err(internal_error)?;
    Ok((
        [(
            CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response())
}
