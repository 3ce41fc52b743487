//! Session ids of the legacy era. An id is signed and holds all that a facade must know, so any facade serves any session,
//! also after a restart, and no table of sessions exists.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};

use crate::core::failure::Failure;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::version::ProtocolVersion;
use crate::core::names::UserName;
use crate::crypto::seal::Sealer;
use crate::telemetry::error::internal_error;

/// The purpose of the signature.
const PURPOSE: &str = "mcp session";
const FORMAT: u8 = 1;
/// Format, time, random part, version and the bits of the client's capabilities.
const CONTENT: usize = 1 + 4 + RANDOM + 1 + 2;
const RANDOM: usize = 12;
const MAC: usize = 32;
/// A session lives for seven days.
const LIFETIME_SECONDS: u64 = 7 * 24 * 3600;

/// A session of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub random: [u8; RANDOM],
    pub version: ProtocolVersion,
    pub capabilities: ClientCapabilities,
    /// Seconds since 1970.
    issued: u64,
}

impl Session {
    /// Begins a session.
    ///
    /// # Errors
    /// `internal` if the system returns no random bytes.
    pub(super) fn begin(
        version: ProtocolVersion,
        capabilities: ClientCapabilities,
        now: u64,
    ) -> Result<Self, Failure> {
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random).map_err(internal_error)?;
        Ok(Self {
            random,
            version,
            capabilities,
            issued: now,
        })
    }

    /// Returns the session id for one user and one endpoint.
    ///
    /// # Errors
    /// `internal` if the key cannot be used.
    pub(super) fn id(
        &self,
        sealer: &Sealer,
        user: &UserName,
        route: &str,
    ) -> Result<String, Failure> {
        let content = self.content();
        let mac = sealer
            .sign(PURPOSE, &signed_text(&content, user, route))
            .map_err(internal_error)?;
        Ok(URL_SAFE.encode([&content[..], &mac].concat()))
    }

    /// Returns the session of an id, or `None` if the id is not valid for this user and this endpoint, or too old.
    pub(super) fn parse(
        id: &str,
        sealer: &Sealer,
        user: &UserName,
        route: &str,
        now: u64,
    ) -> Option<Self> {
        let bytes: [u8; CONTENT + MAC] = URL_SAFE.decode(id).ok()?.try_into().ok()?;
        let (content, mac) = bytes.split_at(CONTENT);
        let session = Self::read(content)?;
        let is_alive = now < session.issued + LIFETIME_SECONDS;
        let is_ours = sealer.is_signed(PURPOSE, &signed_text(content, user, route), mac);
        (is_alive && is_ours).then_some(session)
    }

    fn content(&self) -> [u8; CONTENT] {
        let mut content = [0; CONTENT];
        content[0] = FORMAT;
        content[1..5].copy_from_slice(&(self.issued as u32).to_be_bytes());
        content[5..5 + RANDOM].copy_from_slice(&self.random);
        content[5 + RANDOM] = self.version.number();
        content[6 + RANDOM..].copy_from_slice(&self.capabilities.bits().to_be_bytes());
        content
    }

    fn read(content: &[u8]) -> Option<Self> {
        let (&format, rest) = content.split_first()?;
        let (issued, rest) = rest.split_first_chunk::<4>()?;
        let (random, rest) = rest.split_first_chunk::<RANDOM>()?;
        let (&version, bits) = rest.split_first()?;
        let version = ProtocolVersion::from_number(version)?;
        let bits = u16::from_be_bytes(*bits.first_chunk()?);
        (format == FORMAT).then_some(Self {
            random: *random,
            version,
            capabilities: ClientCapabilities::from_bits(bits),
            issued: u32::from_be_bytes(*issued).into(),
        })
    }
}

/// Returns the signed text. User names contain no line break.
fn signed_text(content: &[u8], user: &UserName, route: &str) -> String {
    format!("{}\n{user}\n{route}", URL_SAFE.encode(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::mcp::testing::sealer;

    const NOW: u64 = 1_700_000_000;

    fn user(name: &str) -> UserName {
        name.parse().expect("a name")
    }

    fn session() -> Session {
        let capabilities = ClientCapabilities::from_bits(0x0105);
        Session::begin(ProtocolVersion::V2025_06_18, capabilities, NOW).expect("a session")
    }

    #[test]
    fn a_session_id_is_valid_for_its_user_and_its_endpoint() {
        let sealer = sealer();
        let session = session();
        let id = session.id(&sealer, &user("ana"), "/mcp").expect("an id");
        let parse = |id: &str, name: &str, route: &str, now| {
            Session::parse(id, &sealer, &user(name), route, now)
        };
        assert_eq!(parse(&id, "ana", "/mcp", NOW), Some(session));
        assert_eq!(
            parse(&id, "ana", "/mcp", NOW + LIFETIME_SECONDS - 1),
            Some(session)
        );
        assert_eq!(parse(&id, "ana", "/mcp", NOW + LIFETIME_SECONDS), None);
        assert_eq!(parse(&id, "ben", "/mcp", NOW), None);
        assert_eq!(parse(&id, "ana", "/mcp/servers/a/mcp", NOW), None);
        assert_eq!(parse(&format!("{id}="), "ana", "/mcp", NOW), None);
        assert_eq!(parse("", "ana", "/mcp", NOW), None);
    }

    #[test]
    fn a_session_id_with_any_changed_bit_is_refused() {
        let sealer = sealer();
        let id = session().id(&sealer, &user("ana"), "/mcp").expect("an id");
        let bytes = URL_SAFE.decode(&id).expect("base64");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = URL_SAFE.encode(changed);
            let parsed = Session::parse(&changed, &sealer, &user("ana"), "/mcp", NOW);
            assert_eq!(parsed, None, "bit {bit}");
        }
    }
}
