//! Seal contexts: the associated data that binds each sealed value to its place.
//!
//! The bytes of every context are stored data. A change makes stored values unreadable.

use super::seal::{FORMAT, length_prefixed};
use crate::core::ids::{JobId, ServerId, ValueId};
use crate::core::model::grant::GrantId;
use crate::core::names::{SecretName, UserName};

/// The purpose of a sealed value. The value opens for no other purpose.
pub trait SealContext {
    fn value(&self) -> ValueId;
    /// Returns the associated data for AES-GCM.
    fn associated_data(&self) -> Vec<u8>;
}

/// The context of a secret for one server, of one user or of all users.
#[derive(Clone, Copy)]
pub struct SecretContext<'a> {
    pub server: ServerId,
    pub user: Option<&'a UserName>,
    pub name: &'a SecretName,
    pub value: ValueId,
}

impl SealContext for SecretContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.user {
            Some(_) => b"secret",
            None => b"shared secret",
        };
        let parts: [&[u8]; 6] = [
            &[FORMAT],
            kind,
            self.server.0.as_bytes(),
            self.user.map_or("", UserName::as_str).as_bytes(),
            self.name.as_str().as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}

/// The context of a value that belongs to a server and to no user.
#[derive(Clone, Copy)]
pub struct ServerValueContext<'a> {
    pub server: ServerId,
    pub kind: ServerValueKind,
    /// The lowercase name of a header, the name of a parameter as the URL spells it, or the field of a package index;
    /// empty for other kinds.
    pub name: &'a str,
    pub value: ValueId,
}

/// The kinds of sealed values of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerValueKind {
    Header,
    /// The user info of the server's URL.
    UserInfo,
    /// The value of a parameter in the query of the server's URL.
    Query,
    Session,
    /// The user info of a package index.
    Index,
    /// The lockfile of a package.
    Lock,
}

impl SealContext for ServerValueContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            ServerValueKind::Header => b"header",
            ServerValueKind::UserInfo => b"user info",
            ServerValueKind::Query => b"query",
            ServerValueKind::Session => b"session",
            ServerValueKind::Index => b"package index",
            ServerValueKind::Lock => b"package lock",
        };
        let parts: [&[u8]; 5] = [
            &[FORMAT],
            kind,
            self.server.0.as_bytes(),
            self.name.as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}

/// The context of a job's value.
#[derive(Clone, Copy)]
pub struct JobValueContext {
    pub job: JobId,
    pub part: JobValueKind,
    pub value: ValueId,
}

/// The kinds of sealed values of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobValueKind {
    Arguments,
    Answer,
    /// The message of a dead letter.
    DeadLetter,
}

impl SealContext for JobValueContext {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.part {
            JobValueKind::Arguments => b"job arguments",
            JobValueKind::Answer => b"job answer",
            JobValueKind::DeadLetter => b"dead letter",
        };
        let parts: [&[u8]; 4] = [
            &[FORMAT],
            kind,
            self.job.0.as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}

/// The context of a value with which a server acts at Google for a user.
#[derive(Clone, Copy)]
pub struct GoogleContext<'a> {
    pub server: ServerId,
    pub user: &'a UserName,
    pub kind: GoogleValueKind,
    pub value: ValueId,
}

/// The kinds of sealed values of the Google flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoogleValueKind {
    /// The arguments of the code exchange, between the facade and the worker.
    Code,
    Tokens,
    /// The Google credentials of the deployment, which stay in memory and belong to no user.
    Application,
}

impl SealContext for GoogleContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            GoogleValueKind::Code => b"google code",
            GoogleValueKind::Tokens => b"google tokens",
            GoogleValueKind::Application => b"google application",
        };
        let parts: [&[u8]; 5] = [
            &[FORMAT],
            kind,
            self.server.0.as_bytes(),
            self.user.as_str().as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}

/// The context of a value of a grant, for one user or for all users of a server.
#[derive(Clone, Copy)]
pub struct GrantContext<'a> {
    pub grant: &'a GrantId,
    pub part: GrantValueKind,
    pub value: ValueId,
}

/// The kinds of sealed values of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantValueKind {
    /// The access token as the value of its header.
    Access,
    /// The refresh token and the client that may use it.
    Renewal,
    /// The client of an authorization that has not begun.
    Client,
    /// The state of an authorization that has begun.
    Begun,
    /// The authorization code from the browser.
    Code,
    /// The record that a link was used.
    UsedLink,
}

impl SealContext for GrantContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.part {
            GrantValueKind::Access => b"grant access",
            GrantValueKind::Renewal => b"grant renewal",
            GrantValueKind::Client => b"grant client",
            GrantValueKind::Begun => b"grant begun",
            GrantValueKind::Code => b"grant code",
            GrantValueKind::UsedLink => b"grant used link",
        };
        let user = self.grant.user.as_ref().map_or("", UserName::as_str);
        let parts: [&[u8]; 5] = [
            &[FORMAT],
            kind,
            self.grant.server.0.as_bytes(),
            user.as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}
