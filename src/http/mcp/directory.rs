//! The tools of all enabled servers under their exposed names. It is built once for each change of a tool list.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use memchr::memmem;

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::ids::{Position, ServerId};
use crate::core::mcp::names::exposed_names;

/// The directory of the newest tool lists.
pub struct DirectoryCache {
    name_limit: usize,
    newest: ArcSwapOption<ToolDirectory>,
}

/// A tool of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRef {
    pub server: ServerId,
    pub tool: Arc<str>,
}

pub struct ToolDirectory {
    /// The position of the newest change of a tool list.
    position: Position,
    by_exposed_name: HashMap<String, ToolRef>,
    exposed_names: HashMap<ServerId, Vec<Arc<str>>>,
    by_tool: HashMap<Arc<str>, Vec<ServerId>>,
    /// The tools whose arguments are repeated in headers.
    with_headers: HashSet<(ServerId, Arc<str>)>,
}

impl DirectoryCache {
    pub fn new(name_limit: usize) -> Self {
        Self {
            name_limit,
            newest: ArcSwapOption::empty(),
        }
    }

    /// Returns the largest number of characters of an exposed name.
    pub fn name_limit(&self) -> usize {
        self.name_limit
    }

    /// Returns the directory of a catalog.
    pub fn get(&self, catalog: &Catalog) -> Arc<ToolDirectory> {
        if let Some(newest) = self.newest.load_full()
            && newest.position == catalog.tools_changed
        {
            return newest;
        }
        let directory = Arc::new(ToolDirectory::build(catalog, self.name_limit));
        self.newest.store(Some(directory.clone()));
        directory
    }
}

impl ToolDirectory {
    fn build(catalog: &Catalog, name_limit: usize) -> Self {
        let mut directory = Self {
            position: catalog.tools_changed,
            by_exposed_name: HashMap::new(),
            exposed_names: HashMap::new(),
            by_tool: HashMap::new(),
            with_headers: HashSet::new(),
        };
        let tools = named_tools(catalog);
        let pairs = tools
            .iter()
            .map(|(server, tool, _)| (server.name.as_str(), tool.as_ref()));
        let names = exposed_names(pairs, name_limit);
        for ((server, tool, has_headers), name) in tools.into_iter().zip(names) {
            directory.add(server.id, tool, name, has_headers);
        }
        directory
    }

    fn add(&mut self, server: ServerId, tool: Arc<str>, name: String, has_headers: bool) {
        self.exposed_names
            .entry(server)
            .or_default()
            .push(name.as_str().into());
        self.by_tool.entry(tool.clone()).or_default().push(server);
        if has_headers {
            self.with_headers.insert((server, tool.clone()));
        }
        self.by_exposed_name.insert(name, ToolRef { server, tool });
    }

    /// Returns the tool with an exposed name, or with a raw name that exactly one of the servers has which the caller may
    /// use.
    pub fn find(&self, name: &str, may_use: impl Fn(ServerId) -> bool) -> Option<ToolRef> {
        if let Some(tool) = self
            .by_exposed_name
            .get(name)
            .filter(|tool| may_use(tool.server))
        {
            return Some(tool.clone());
        }
        let (tool, servers) = self.by_tool.get_key_value(name)?;
        let mut usable = servers.iter().filter(|server| may_use(**server));
        let server = *usable.next()?;
        usable.next().is_none().then(|| ToolRef {
            server,
            tool: tool.clone(),
        })
    }

    /// Returns the exposed names of a server's tools, in the order of its list.
    pub fn exposed_names(&self, server: ServerId) -> &[Arc<str>] {
        self.exposed_names.get(&server).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the arguments of a tool are repeated in headers.
    pub fn has_argument_headers(&self, server: ServerId, tool: &str) -> bool {
        !self.with_headers.is_empty() && self.with_headers.contains(&(server, tool.into()))
    }
}

/// Returns the tools of all enabled servers that have a name, and whether their schemas mention headers.
fn named_tools(catalog: &Catalog) -> Vec<(&Arc<Server>, Arc<str>, bool)> {
    let mark = memmem::Finder::new(b"\"x-mcp-header\"");
    let mut tools = Vec::new();
    for server in catalog.servers() {
        if !server.enabled {
            continue;
        }
        for tool in server.tools.tools.iter() {
            if let Some(name) = tool.name() {
                let has_headers = mark.find(tool.raw().get().as_bytes()).is_some();
                tools.push((server, name.into(), has_headers));
            }
        }
    }
    tools
}
