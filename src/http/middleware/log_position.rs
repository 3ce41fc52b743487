//!

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};

use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::http::state::ApiState;

/// The newest position an answer has seen; sent back, the answer will have seen it too.
pub static LOG_POSITION: HeaderName = HeaderName::from_static("log-position");
/// How long a request waits for the position it has named.
const CATCH_UP: Duration = Duration::from_secs(5);

pub async fn wait_for_log_position(
    facade: &ApiState,
    position: &HeaderValue,
) -> Result<(), Failure> {
    let wrong =
        || Failure::invalid("Log-Position must be a position that an earlier answer has told");
    let position = Position(
        position
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(wrong)?,
    );
    if facade.projection.position() >= position {
        return Ok(());
    }
    let head = facade
        .projection
        .log()
        .head()
        .await
        .map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    if position > head {
        return Err(Failure::invalid(format!(
            "Log-Position is past the end of the log, which is at {head}"
        )));
    }
    if facade.projection.wait_for(position, CATCH_UP).await {
        return Ok(());
    }
    Err(Failure::unavailable(
        "This process has not yet reached that Log-Position; ask again",
    ))
}
