//! Where sealed values belong: the associated data that binds each to its place.

use super::seal::{FORMAT, length_prefixed};
use crate::core::model::grant::GrantId;
use crate::core::names::{JobId, SecretName, ServerId, UserName, ValueId};

/// What a sealed value is for; it opens for nothing else.
pub trait Place {
    fn value(&self) -> ValueId;
    fn associated_data(&self) -> Vec<u8>;
}

/// A user's secret for a server.
#[derive(Clone, Copy)]
pub struct SecretPlace<'a> {
    pub server: ServerId,
    pub user: &'a UserName,
    pub name: &'a SecretName,
    pub value: ValueId,
}

/// What a server is told with every request, or its session.
#[derive(Clone, Copy)]
pub struct ServerPlace<'a> {
    pub server: ServerId,
    pub kind: Kind,
    /// A header's name in lower case, or an index's field; nothing else has one.
    pub name: &'a str,
    pub value: ValueId,
}

/// What of a server is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
pub struct JobPlace {
    pub job: JobId,
    pub part: JobPart,
    pub value: ValueId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPart {
    Arguments,
    Answer,
    /// A dead letter.
    Letter,
}

impl Place for JobPlace {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let part: &[u8] = match self.part {
            JobPart::Arguments => b"job arguments",
            JobPart::Answer => b"job answer",
            JobPart::Letter => b"dead letter",
        };
        length_prefixed(&[&[FORMAT], part, self.job.0.as_bytes(), self.value.0.as_bytes()])
    }
}

/// What lets a server act at Google for a user.
#[derive(Clone, Copy)]
pub struct GooglePlace<'a> {
    pub server: ServerId,
    pub user: &'a UserName,
    pub kind: GoogleKind,
    pub value: ValueId,
}

/// What of a user's access to Google is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoogleKind {
    /// The arguments of an exchange, on their way to the worker that makes it.
    Code,
    Tokens,
    /// What Google knows the deployment by. It lies in memory only, and is no server's and no user's.
    Application,
}

/// What of a grant is sealed, for all users of a server or for one.
#[derive(Clone, Copy)]
pub struct GrantPlace<'a> {
    pub grant: &'a GrantId,
    pub part: GrantPart,
    pub value: ValueId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantPart {
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

impl Place for GrantPlace<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let part: &[u8] = match self.part {
            GrantPart::Access => b"grant access",
            GrantPart::Renewal => b"grant renewal",
            GrantPart::Client => b"grant client",
            GrantPart::Begun => b"grant begun",
            GrantPart::Code => b"grant code",
        };
        let user = self.grant.user.as_ref().map_or("", |user| user.as_str());
        let parts: [&[u8]; 5] =
            [&[FORMAT], part, self.grant.server.0.as_bytes(), user.as_bytes(), self.value.0.as_bytes()];
        length_prefixed(&parts)
    }
}

impl Place for ServerPlace<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            Kind::Header => b"header",
            Kind::UserInfo => b"user info",
            Kind::Session => b"session",
            Kind::Index => b"package index",
            Kind::Lock => b"package lock",
        };
        let parts: [&[u8]; 5] =
            [&[FORMAT], kind, self.server.0.as_bytes(), self.name.as_bytes(), self.value.0.as_bytes()];
        length_prefixed(&parts)
    }
}

impl Place for GooglePlace<'_> {
    fn value(&self) -> ValueId {
        self.value
    }

    fn associated_data(&self) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            GoogleKind::Code => b"google code",
            GoogleKind::Tokens => b"google tokens",
            GoogleKind::Application => b"google application",
        };
        let user = self.user.as_str().as_bytes();
        length_prefixed(&[&[FORMAT], kind, self.server.0.as_bytes(), user, self.value.0.as_bytes()])
    }
}

impl Place for SecretPlace<'_> {
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
