//! The request header `Log-Position`: the answer must have read the log at least up to there.

use std::time::Duration;

use axum::http::HeaderValue;

use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::http::state::ApiState;

/// The longest wait for the projection.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the projection has reached the position.
///
/// # Errors
/// `invalid_request` for a position past the end of the log; `unavailable` if the projection does
/// not reach the position within five seconds or the store does not answer.
pub(super) async fn wait_for_log_position(
    state: &ApiState,
    position: &HeaderValue,
) -> Result<(), Failure> {
    let position = parse_position(position)?;
    let projection = state.projection();
    if projection.position() >= position {
        return Ok(());
    }
    let head = projection
        .log()
        .head()
        .await
        .map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    if position > head {
        return Err(Failure::invalid(format!(
            "Log-Position is past the end of the log, which is at {head}"
        )));
    }
    if projection.wait_for(position, WAIT_LIMIT).await {
        return Ok(());
    }
    Err(Failure::unavailable(
        "This process has not reached that Log-Position yet; try again",
    ))
}

fn parse_position(position: &HeaderValue) -> Result<Position, Failure> {
    position
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .map(Position)
        .ok_or_else(|| {
            Failure::invalid("Log-Position must be a position from the header of an earlier answer")
        })
}
