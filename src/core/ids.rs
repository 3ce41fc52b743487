//! The ids of the program and the position in the event log. Each kind of id has a type of its own.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::names::BadName;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(with = "String")]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

id!(
    /// Names one registration of a server. A new registration under an old name gets a new id and inherits nothing.
    ServerId
);
id!(
    /// Names a lease: the right of one worker to run a server, to execute its own jobs or to refresh a grant.
    LeaseId
);
id!(
    /// Names one sealed value in the Vault. A value never changes under its id.
    ValueId
);
id!(
    /// Names one command. A commit with the same command id is the same change, and the log stores it once.
    CommandId
);
id!(
    /// Names one job. Job ids sort by their creation time (UUID version 7).
    JobId
);
id!(
    /// Holds 128 bits of a keyed digest, in the text form of an id.
    Digest
);
id!(
    /// Names one token of a user. Token ids sort by their creation time (UUID version 7).
    TokenId
);
id!(
    /// Names one run of a worker process. A restarted worker has a new id.
    WorkerId
);
id!(
    /// Names one run of a facade process. A restarted facade has a new id.
    FacadeId
);

impl JobId {
    /// Returns the creation time in milliseconds since 1970, if the id is a UUID of version 7.
    pub fn made_at(self) -> Option<u64> {
        made_at(self.0)
    }
}

impl ValueId {
    /// Returns the time in milliseconds since 1970 at which the value was sealed, if the id is a UUID of version 7.
    pub fn made_at(self) -> Option<u64> {
        made_at(self.0)
    }
}

/// Returns the time in a UUID of version 7 (RFC 9562, section 5.7), in milliseconds since 1970.
fn made_at(id: Uuid) -> Option<u64> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos) / 1_000_000)
}

impl FromStr for JobId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse()
            .map(Self)
            .map_err(|_| BadName::new("must be the id of a job"))
    }
}

impl From<ServerId> for LeaseId {
    fn from(ServerId(id): ServerId) -> Self {
        Self(id)
    }
}

impl From<JobId> for LeaseId {
    fn from(JobId(id): JobId) -> Self {
        Self(id)
    }
}

impl From<WorkerId> for LeaseId {
    fn from(WorkerId(id): WorkerId) -> Self {
        Self(id)
    }
}

/// Numbers an entry of the event log. The first entry has position 1; position 0 is the empty log.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Returns the position of the following entry.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_of_version_7_holds_its_creation_time() {
        let id: JobId = "018f3a2b-4c5d-7000-8000-000000000000"
            .parse()
            .expect("an id");
        assert_eq!(id.made_at(), Some(0x018f_3a2b_4c5d));
        assert_eq!(JobId(Uuid::from_u128(7)).made_at(), None);
    }

    #[test]
    fn a_value_id_of_version_7_holds_the_time_of_its_sealing() {
        let id = Uuid::parse_str("018f3a2b-4c5d-7000-8000-000000000000").expect("an id");
        assert_eq!(ValueId(id).made_at(), Some(0x018f_3a2b_4c5d));
        assert_eq!(ValueId(Uuid::from_u128(7)).made_at(), None);
    }

    #[test]
    fn a_text_that_is_no_uuid_is_no_job_id() {
        let error = "job-7".parse::<JobId>().expect_err("no id");
        assert_eq!(error.to_string(), "must be the id of a job");
    }

    #[test]
    fn positions_start_at_one_after_the_empty_log() {
        assert_eq!(Position::default().next(), Position(1));
    }
}
