//! Callers: who sends a request, and the scopes that say which requests the caller may send.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::failure::{Code, Failure};
use crate::core::ids::{ServerId, TokenId};
use crate::core::model::job::SYSTEM_USER;
use crate::core::names::{BadName, UserName};

/// A right of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// List tools and servers, call tools, read and cancel one's own jobs.
    Tools,
    /// Set and delete one's own secrets, start and end one's own connections.
    Secrets,
    /// Make, list and revoke one's own tokens.
    Tokens,
    /// Read the events of all users.
    Audit,
    /// Read the metrics.
    Metrics,
    /// Do everything, for every user.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 6] = [
        Self::Tools,
        Self::Secrets,
        Self::Tokens,
        Self::Audit,
        Self::Metrics,
        Self::Admin,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Secrets => "secrets",
            Self::Tokens => "tokens",
            Self::Audit => "audit",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or(BadName::new(
                "must be tools, secrets, tokens, audit, metrics or admin",
            ))
    }
}

/// A set of scopes, in one byte. On the wire it is a list.
#[derive(Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "Vec<Scope>")]
pub struct Scopes(u8);

impl Scopes {
    /// The scopes of a token whose maker names none.
    pub const DEFAULT: [Scope; 2] = [Scope::Tools, Scope::Secrets];

    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Returns whether a caller with these scopes has a right. `admin` includes every right.
    pub fn allow(self, scope: Scope) -> bool {
        self.contains(scope) || self.contains(Scope::Admin)
    }

    /// Returns whether these scopes include all rights of other scopes.
    pub fn include(self, other: Self) -> bool {
        self.contains(Scope::Admin) || self.0 & other.0 == other.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Vec::<Scope>::deserialize(input)?.into_iter().collect())
    }
}

/// The servers that a caller may use, by the ids of their registrations. A server that is registered later under the
/// name of a listed server is not included.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "Option<Vec<ServerId>>")]
pub enum AllowedServers {
    #[default]
    All,
    Only(Arc<[ServerId]>),
}

impl AllowedServers {
    pub fn contains(&self, server: ServerId) -> bool {
        match self {
            Self::All => true,
            Self::Only(servers) => servers.contains(&server),
        }
    }

    /// Returns whether all servers of the other set are in this set.
    pub fn include(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Only(_), Self::All) => false,
            (Self::Only(_), Self::Only(others)) => {
                others.iter().all(|server| self.contains(*server))
            }
        }
    }

    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl Serialize for AllowedServers {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => output.serialize_none(),
            Self::Only(servers) => output.collect_seq(servers.iter()),
        }
    }
}

impl<'de> Deserialize<'de> for AllowedServers {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let servers = Option::<Vec<ServerId>>::deserialize(input)?;
        match servers {
            None => Ok(Self::All),
            Some(servers) if servers.is_empty() => {
                Err(D::Error::custom("a list of servers must not be empty"))
            }
            Some(servers) => Ok(Self::Only(servers.into())),
        }
    }
}

/// The way in which a caller authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallerKind {
    AdminToken,
    Token,
    Oidc,
    Browser,
    /// No identity is configured, and the request carries no token of this API.
    Local,
}

/// The authenticated sender of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub kind: CallerKind,
    /// The user that a request acts for if it names none.
    pub user: UserName,
    pub scopes: Scopes,
    pub servers: AllowedServers,
    /// The token of this API, for the kind `token` and for a browser that signed in with a token.
    pub token: Option<TokenId>,
    /// The claim `sub` of the JWT, for the kind `oidc`.
    pub subject: Option<Arc<str>>,
    /// The end of the authentication in milliseconds since 1970.
    pub expires_at: Option<u64>,
}

impl Caller {
    /// Returns a caller who may do everything for every user.
    pub fn unrestricted(kind: CallerKind) -> Self {
        Self {
            kind,
            user: UserName::default(),
            scopes: [Scope::Admin].into_iter().collect(),
            servers: AllowedServers::All,
            token: None,
            subject: None,
            expires_at: None,
        }
    }

    pub fn is_admin(&self) -> bool {
        self.scopes.contains(Scope::Admin)
    }

    /// Returns the user that a request acts for: the user that the request names, else the caller.
    ///
    /// # Errors
    /// `forbidden` if the request names another user and the caller has no scope `admin`. `invalid_request` if the
    /// request names the system user.
    pub fn acts_for(&self, requested: Option<UserName>) -> Result<UserName, Failure> {
        let Some(user) = requested else {
            return Ok(self.user.clone());
        };
        if !self.is_admin() && user != self.user {
            return Err(Failure::new(
                Code::Forbidden,
                "username must be the user of the token, or be left out; only a caller with the scope admin acts for \
                 other users",
            ));
        }
        if is_reserved(&user) {
            return Err(reserved_user());
        }
        Ok(user)
    }

    /// Returns the user of a grant that a request stores. For an administrator, no name means all users who have no
    /// tokens of their own.
    ///
    /// # Errors
    /// As [`Caller::acts_for`].
    pub fn grant_user(&self, requested: Option<UserName>) -> Result<Option<UserName>, Failure> {
        if requested.is_none() && self.is_admin() {
            return Ok(None);
        }
        self.acts_for(requested).map(Some)
    }

    /// Returns the user whose state a request reads. An administrator may also read the jobs of the system user.
    ///
    /// # Errors
    /// `forbidden` if the request names another user and the caller has no scope `admin`.
    pub fn reads_for(&self, requested: Option<UserName>) -> Result<UserName, Failure> {
        match requested {
            Some(user) if self.is_admin() && is_reserved(&user) => Ok(user),
            requested => self.acts_for(requested),
        }
    }
}

/// Returns whether a name belongs to the program.
pub fn is_reserved(user: &UserName) -> bool {
    user.as_str() == SYSTEM_USER
}

/// Returns the failure for a request, a token or a claim that uses the name of the system user.
pub fn reserved_user() -> Failure {
    Failure::invalid(format!(
        "username must not be {SYSTEM_USER}, because this name belongs to the program"
    ))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn scopes(scopes: &[Scope]) -> Scopes {
        scopes.iter().copied().collect()
    }

    fn server(number: u128) -> ServerId {
        ServerId(Uuid::from_u128(number))
    }

    fn only(servers: &[u128]) -> AllowedServers {
        AllowedServers::Only(servers.iter().map(|number| server(*number)).collect())
    }

    fn user(name: &str) -> UserName {
        name.parse().expect("a name")
    }

    fn caller(name: &str, scopes: Scopes) -> Caller {
        Caller {
            user: user(name),
            scopes,
            ..Caller::unrestricted(CallerKind::Token)
        }
    }

    #[test]
    fn admin_allows_every_scope() {
        let admin = scopes(&[Scope::Admin]);
        assert!(Scope::ALL.iter().all(|scope| admin.allow(*scope)));
        assert!(admin.include(scopes(&Scope::ALL)));
        assert!(!scopes(&[Scope::Tools]).allow(Scope::Secrets));
        assert!(!scopes(&[Scope::Tools]).include(scopes(&[Scope::Tools, Scope::Audit])));
    }

    #[test]
    fn scopes_are_a_list_on_the_wire() {
        let set = scopes(&[Scope::Metrics, Scope::Tools]);
        let json = serde_json::to_string(&set).expect("JSON");
        assert_eq!(json, r#"["tools","metrics"]"#);
        assert_eq!(serde_json::from_str::<Scopes>(&json).expect("scopes"), set);
        assert!(serde_json::from_str::<Scopes>(r#"["root"]"#).is_err());
    }

    #[test]
    fn a_scope_has_one_spelling() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse::<Scope>().ok(), Some(scope));
            let json = serde_json::to_string(&scope).expect("JSON");
            assert_eq!(json, format!("\"{scope}\""));
        }
        assert!("Admin".parse::<Scope>().is_err());
    }

    #[test]
    fn a_list_of_servers_includes_its_parts_only() {
        assert!(AllowedServers::All.include(&only(&[1])));
        assert!(only(&[1, 2]).include(&only(&[2])));
        assert!(!only(&[1]).include(&only(&[1, 2])));
        assert!(!only(&[1]).include(&AllowedServers::All));
        assert!(!only(&[1]).contains(server(2)));
    }

    #[test]
    fn an_empty_list_of_servers_is_refused() {
        assert!(serde_json::from_str::<AllowedServers>("[]").is_err());
        let all: AllowedServers = serde_json::from_str("null").expect("servers");
        assert!(all.is_all());
    }

    #[test]
    fn a_caller_acts_for_one_user_and_an_administrator_for_all() {
        let ana = caller("ana", scopes(&[Scope::Tools]));
        assert_eq!(ana.acts_for(None).expect("a user"), user("ana"));
        assert_eq!(
            ana.acts_for(Some(user("ana"))).expect("a user"),
            user("ana")
        );
        let failure = ana.acts_for(Some(user("ben"))).expect_err("refused");
        assert_eq!(failure.code, Code::Forbidden);
        let admin = caller("root", scopes(&[Scope::Admin]));
        assert_eq!(
            admin.acts_for(Some(user("ben"))).expect("a user"),
            user("ben")
        );
        assert_eq!(admin.acts_for(None).expect("a user"), user("root"));
    }

    #[test]
    fn no_caller_acts_for_the_system_user() {
        let admin = Caller::unrestricted(CallerKind::AdminToken);
        let system = || Some(user(SYSTEM_USER));
        let failure = admin.acts_for(system()).expect_err("refused");
        assert_eq!(failure.code, Code::InvalidRequest);
        assert_eq!(
            admin.reads_for(system()).expect("a user").as_str(),
            "mcp-api"
        );
        let ana = caller("ana", scopes(&[Scope::Tools]));
        assert!(ana.reads_for(system()).is_err());
    }
}
