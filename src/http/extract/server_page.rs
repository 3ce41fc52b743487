//! A part of a list of servers.

use std::sync::Arc;

use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::names::ServerName;

/// The most servers of a page.
const MAX_LIMIT: usize = 1000;

/// The servers that a request asks for, in the order of their names. Without a limit: all of them.
#[derive(Debug, Default)]
pub(crate) struct ServerPage {
    limit: Option<usize>,
    after: Option<ServerName>,
}

impl ServerPage {
    /// Checks the parameters `limit` and `after`.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(crate) fn new(limit: Option<usize>, after: Option<ServerName>) -> Result<Self, Failure> {
        if limit.is_some_and(|limit| !(1..=MAX_LIMIT).contains(&limit)) {
            return Err(Failure::invalid(format!("limit must be 1 to {MAX_LIMIT}")));
        }
        Ok(Self { limit, after })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.limit.is_none() && self.after.is_none()
    }

    /// Returns the servers of this page, and the `after` of the next page if there is one.
    pub(crate) fn select<'a>(
        &self,
        servers: impl Iterator<Item = &'a Arc<Server>>,
    ) -> (Vec<&'a Arc<Server>>, Option<ServerName>) {
        let after = self.after.as_ref();
        let mut rest = servers.filter(|server| after.is_none_or(|after| server.name > *after));
        let limit = self.limit.unwrap_or(usize::MAX);
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let has_more = rest.next().is_some();
        let next = page.last().filter(|_| has_more);
        let next = next.map(|server| server.name.clone());
        (page, next)
    }
}
