//! `Idempotency-Key`: whoever sends a request again under its key gets the answer of the first, and nothing is done
//! twice. The key stands for a job, so it outlives this process.

use axum::http::HeaderMap;

use super::facade::Facade;
use crate::core::failure::Failure;
use crate::core::job::RequestKey;
use crate::core::names::UserName;
use crate::telemetry::bug;

/// Characters of a key.
const LONGEST: usize = 255;

/// What the request is to be known by, where its sender wants that. `of` is its method and path.
pub fn key(
    facade: &Facade,
    headers: &HeaderMap,
    of: &str,
    user: &UserName,
    body: &[u8],
) -> Result<Option<RequestKey>, Failure> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(key) = given.next() else { return Ok(None) };
    let wrong =
        || Failure::invalid(format!("Idempotency-Key must be one text of 1 to {LONGEST} visible ASCII characters"));
    let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST && given.next().is_none());
    let key = key.ok_or_else(wrong)?;
    let digest = |what, parts: &[&[u8]]| facade.sealer.digest(what, parts).map_err(bug);
    let scope = digest("request", &[of.as_bytes(), user.as_str().as_bytes(), key.as_bytes()])?;
    Ok(Some(RequestKey { scope, body: digest("body", &[body])? }))
}
