//! `Idempotency-Key`: whoever sends a request again under its key gets the answer of the first, and nothing is done
//! twice.

use axum::extract::Request;

use crate::core::failure::Failure;
use crate::core::model::idempotency::{IdempotencyKey, JobIdempotencyKey};
use crate::core::names::{ServerName, UserName};
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;

/// Characters of a key.
const LONGEST: usize = 255;

/// What a request says of itself that is to be known again. Read before its body is.
pub struct IdempotencyHeader {
    key: String,
    /// Method and path.
    of: String,
}

impl IdempotencyHeader {
    /// `None`: its sender does not mean to send it again.
    pub fn of(request: &Request) -> Result<Option<Self>, Failure> {
        let mut given = request.headers().get_all("idempotency-key").iter();
        let Some(key) = given.next() else {
            return Ok(None);
        };
        let wrong = || {
            Failure::invalid(format!(
                "Idempotency-Key must be one text of 1 to {LONGEST} visible ASCII characters"
            ))
        };
        let key = key
            .to_str()
            .ok()
            .filter(|key| !key.is_empty() && key.len() <= LONGEST && given.next().is_none());
        let key = key.ok_or_else(wrong)?.to_owned();
        Ok(Some(Self {
            key,
            of: format!("{} {}", request.method(), request.uri().path()),
        }))
    }

    /// The key among all keys: of this method, path and user.
    pub fn key(
        &self,
        facade: &ApiState,
        user: &UserName,
        body: &[u8],
    ) -> Result<IdempotencyKey, Failure> {
        let digest =
            |what, parts: &[&[u8]]| facade.sealer.digest(what, parts).map_err(internal_error);
        let scope = digest(
            "request",
            &[
                self.of.as_bytes(),
                user.as_str().as_bytes(),
                self.key.as_bytes(),
            ],
        )?;
        Ok(IdempotencyKey {
            scope,
            body: digest("body", &[body])?,
        })
    }

    /// The same of a job.
    pub fn job_key(
        &self,
        facade: &ApiState,
        user: &UserName,
        body: &[u8],
    ) -> Result<JobIdempotencyKey, Failure> {
        let until = Some(facade.job_client.idempotency_expiry());
        Ok(JobIdempotencyKey {
            request: self.key(facade, user, body)?,
            until,
        })
    }
}

/// The key of one of the jobs that a request makes, each for another server.
pub fn of_server(
    facade: &ApiState,
    key: JobIdempotencyKey,
    server: &ServerName,
) -> Result<JobIdempotencyKey, Failure> {
    let JobIdempotencyKey {
        request: IdempotencyKey { scope, body },
        until,
    } = key;
    let parts = [scope.0.as_bytes(), server.as_str().as_bytes()];
    let scope = facade
        .sealer
        .digest("request for a server", &parts)
        .map_err(internal_error)?;
    Ok(JobIdempotencyKey {
        request: IdempotencyKey { scope, body },
        until,
    })
}

/// The key of a change that is nobody's in particular.
pub fn key(
    facade: &ApiState,
    keyed: Option<&IdempotencyHeader>,
    body: &[u8],
) -> Result<Option<IdempotencyKey>, Failure> {
    keyed
        .map(|keyed| keyed.key(facade, &UserName::default(), body))
        .transpose()
}
