//! Where sealed values belong: the associated data that binds each to its place.

use super::seal::{FORMAT, length_prefixed};
use crate::core::ids::{JobId, ServerId, ValueId};
use crate::core::model::grant::GrantId;
use crate::core::names::{SecretName, UserName};

/// What a sealed value is for; it opens for nothing else.
pub trait SealContext {
    fn value(&self) -> ValueId;
    fn associated_data(&self) -> Vec<u8>;
}

/// A user's secret for a server.
#[derive(Clone, Copy)]
pub struct SecretContext<'a> {
    pub server: ServerId,
    pub user: &'a UserName,
    pub name: &'a SecretName,
    pub value: ValueId,
}

/// What a server is told with every request, or its session.
#[derive(Clone, Copy)]
pub struct ServerValueContext<'a> {
    pub server: ServerId,
    pub kind: ServerValueKind,
    /// A header's name in lower case, or an index's field; nothing else has one.
    pub name: &'a str,
    pub value: ValueId,
}

/// What of a server is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerValueKind {
    Header,
    UserInfo,
    Session,
    /// User info of a package index.
    Index,
    /// What a package consists of.
    Lock,
}

/// What a job works on, or what came of it.
#[derive(Clone, Copy)]
pub struct JobValueContext {
    pub job: JobId,
    pub part: JobValueKind,
    pub value: ValueId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobValueKind {
    Arguments,
    Answer,
    /// A dead letter.
    Letter,
}

impl SealContext for JobValueContext {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let part: &[u8] = match self.part {
            JobValueKind::Arguments => b"job arguments",
            JobValueKind::Answer => b"job answer",
            JobValueKind::Letter => b"dead letter",
        };
        length_prefixed(&[
            &[FORMAT],
            part,
            self.job.0.as_bytes(),
            self.value.0.as_bytes(),
        ])
    }
}

/// What lets a server act at Google for a user.
#[derive(Clone, Copy)]
pub struct GoogleContext<'a> {
    pub server: ServerId,
    pub user: &'a UserName,
    pub kind: GoogleValueKind,
    pub value: ValueId,
}

/// What of a user's access to Google is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoogleValueKind {
    /// The arguments of an exchange, on their way to the worker that makes it.
    Code,
    Tokens,
    /// What Google knows the deployment by. It lies in memory only, and is no server's and no user's.
    Application,
}

/// What of a grant is sealed, for all users of a server or for one.
#[derive(Clone, Copy)]
pub struct GrantContext<'a> {
    pub grant: &'a GrantId,
    pub part: GrantValueKind,
    pub value: ValueId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantValueKind {
    /// The access token, as its header has it.
    Access,
    /// What a new one is got with.
    Renewal,
    /// The client to be, on its way to whoever begins.
    Client,
    /// What was begun.
    Begun,
    /// The code that the browser came back with.
    Code,
}

impl SealContext for GrantContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let part: &[u8] = match self.part {
            GrantValueKind::Access => b"grant access",
            GrantValueKind::Renewal => b"grant renewal",
            GrantValueKind::Client => b"grant client",
            GrantValueKind::Begun => b"grant begun",
            GrantValueKind::Code => b"grant code",
        };
        let user = self.grant.user.as_ref().map_or("", |user| user.as_str());
        let parts: [&[u8]; 5] = [
            &[FORMAT],
            part,
            self.grant.server.0.as_bytes(),
            user.as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}

impl SealContext for ServerValueContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            ServerValueKind::Header => b"header",
            ServerValueKind::UserInfo => b"user info",
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
        let user = self.user.as_str().as_bytes();
        length_prefixed(&[
            &[FORMAT],
            kind,
            self.server.0.as_bytes(),
            user,
            self.value.0.as_bytes(),
        ])
    }
}

impl SealContext for SecretContext<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let parts: [&[u8]; 6] = [
            &[FORMAT],
            b"secret",
            self.server.0.as_bytes(),
            self.user.as_str().as_bytes(),
            self.name.as_str().as_bytes(),
            self.value.0.as_bytes(),
        ];
        length_prefixed(&parts)
    }
}
