//! Look-up from request to entry.

use std::collections::{BTreeMap, HashMap};

use crate::destination::{Destination, host_matches, is_ip_literal};
use crate::error::CatalogError;
use crate::model::{EntrySpec, Protocol, QuerySpec};
use crate::routes::PathRoutes;
use crate::template::{Overlap, Template};

/// Positions of entries, by what requests show.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: HashMap<(String, u16), usize>,
    /// Longest suffix first.
    wildcards: Vec<(String, u16, usize)>,
    routes: Vec<Routes>,
}

/// Entries of one destination.
#[derive(Debug, Default)]
struct Routes {
    http: HashMap<String, PathRoutes<Vec<HttpRoute>>>,
    mcp: HashMap<String, McpRoutes>,
    opaque: Option<usize>,
    /// By capability.
    custom: HashMap<String, usize>,
}

/// One HTTP entry behind a path.
#[derive(Debug, Clone)]
pub(crate) struct HttpRoute {
    pub(crate) entry: usize,
    pub(crate) template: Template,
}

/// Entries of one MCP endpoint.
#[derive(Debug, Default)]
struct McpRoutes {
    tools: HashMap<String, usize>,
    methods: HashMap<String, usize>,
}

/// What an MCP message is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum McpKey<'a> {
    Tool(&'a str),
    /// A JSON-RPC method, or one of the words of the preset: `response`, `stream`, `close`.
    Method(&'a str),
}

impl Index {
    pub(crate) fn build(
        destinations: &[Destination],
        entries: &[EntrySpec],
    ) -> Result<Self, CatalogError> {
        let mut index = Self {
            routes: destinations.iter().map(|_| Routes::default()).collect(),
            ..Self::default()
        };
        index.add_destinations(destinations)?;
        let by_name: BTreeMap<&str, usize> = destinations
            .iter()
            .map(|d| (d.name.as_str(), d.at))
            .collect();
        let mut http: BTreeMap<(usize, &str), Vec<HttpRoute>> = BTreeMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let destination = by_name
                .get(entry.destination.as_str())
                .copied()
                .ok_or_else(|| CatalogError::Invalid {
                    item: format!("entry {}", entry.name),
                    problem: format!(
                        "there is no destination named {}: correct the name or add it",
                        entry.destination
                    ),
                })?;
            match entry.protocol {
                Protocol::Http => {
                    let template = parse_path(entry)?;
                    let method = entry.method.as_deref().unwrap_or_default();
                    let others = http.entry((destination, method)).or_default();
                    check_overlap(entries, at, &template, others)?;
                    others.push(HttpRoute {
                        entry: at,
                        template,
                    });
                }
                Protocol::Mcp => index.add_mcp(entries, at, destination)?,
                Protocol::Opaque => index.add_opaque(entries, at, destination)?,
                Protocol::Custom => index.add_custom(entries, at, destination)?,
                Protocol::Grpc | Protocol::A2a | Protocol::Ws => {}
            }
        }
        for ((destination, method), routes) in http {
            index.add_http(entries, destination, method, routes)?;
        }
        Ok(index)
    }

    fn add_destinations(&mut self, destinations: &[Destination]) -> Result<(), CatalogError> {
        let mut seen: HashMap<(&str, u16), &str> = HashMap::new();
        for destination in destinations {
            let key = (destination.host.as_str(), destination.port);
            if let Some(first) = seen.insert(key, &destination.name) {
                return Err(CatalogError::Duplicate {
                    what: "host and port",
                    first: format!("destination {first}"),
                    second: format!("destination {}", destination.name),
                });
            }
            if destination.host.starts_with('*') {
                self.wildcards
                    .push((destination.host.clone(), destination.port, destination.at));
            } else {
                self.exact
                    .insert((destination.host.clone(), destination.port), destination.at);
            }
        }
        self.wildcards
            .sort_by_key(|(host, ..)| std::cmp::Reverse(host.len()));
        Ok(())
    }

    fn add_http(
        &mut self,
        entries: &[EntrySpec],
        destination: usize,
        method: &str,
        routes: Vec<HttpRoute>,
    ) -> Result<(), CatalogError> {
        let mut by_shape: BTreeMap<String, Vec<HttpRoute>> = BTreeMap::new();
        for route in routes {
            by_shape
                .entry(route.template.shape())
                .or_default()
                .push(route);
        }
        let mut router = PathRoutes::default();
        for routes in by_shape.into_values() {
            let Some(first) = routes.first().cloned() else {
                continue;
            };
            let name = entries.get(first.entry).map_or("?", |e| e.name.as_str());
            router
                .insert(&first.template, routes)
                .map_err(|error| CatalogError::Invalid {
                    item: format!("entry {name}"),
                    problem: format!("the path cannot be routed: {error}"),
                })?;
        }
        if let Some(at) = self.routes.get_mut(destination) {
            at.http.insert(method.to_owned(), router);
        }
        Ok(())
    }

    fn add_mcp(
        &mut self,
        entries: &[EntrySpec],
        at: usize,
        destination: usize,
    ) -> Result<(), CatalogError> {
        let (Some(entry), Some(routes)) = (entries.get(at), self.routes.get_mut(destination))
        else {
            return Ok(());
        };
        let endpoint = routes
            .mcp
            .entry(entry.path.clone().unwrap_or_default())
            .or_default();
        let previous = match (&entry.tool, &entry.method) {
            (Some(tool), _) => endpoint.tools.insert(tool.clone(), at),
            (None, method) => endpoint
                .methods
                .insert(method.clone().unwrap_or_default(), at),
        };
        duplicate(entries, previous, at, "MCP tool or method of one endpoint")
    }

    fn add_opaque(
        &mut self,
        entries: &[EntrySpec],
        at: usize,
        destination: usize,
    ) -> Result<(), CatalogError> {
        let Some(routes) = self.routes.get_mut(destination) else {
            return Ok(());
        };
        let previous = routes.opaque.replace(at);
        duplicate(entries, previous, at, "opaque entry of one destination")
    }

    fn add_custom(
        &mut self,
        entries: &[EntrySpec],
        at: usize,
        destination: usize,
    ) -> Result<(), CatalogError> {
        let (Some(entry), Some(routes)) = (entries.get(at), self.routes.get_mut(destination))
        else {
            return Ok(());
        };
        let previous = routes.custom.insert(entry.capability.clone(), at);
        duplicate(
            entries,
            previous,
            at,
            "custom capability of one destination",
        )
    }

    pub(crate) fn destination(&self, host: &str, port: u16) -> Option<usize> {
        if let Some(at) = self.exact.get(&(host.to_owned(), port)) {
            return Some(*at);
        }
        if is_ip_literal(host) {
            return None;
        }
        self.wildcards
            .iter()
            .find(|(pattern, p, _)| *p == port && host_matches(pattern, host))
            .map(|(.., at)| *at)
    }

    /// The routes of the most specific template, and the values of its variables by position name.
    pub(crate) fn http(
        &self,
        destination: usize,
        method: &str,
        decoded_path: &str,
    ) -> Option<(&[HttpRoute], HashMap<String, String>)> {
        let (routes, values) = self
            .routes
            .get(destination)?
            .http
            .get(method)?
            .at(decoded_path)?;
        Some((routes, values))
    }

    pub(crate) fn is_mcp_endpoint(&self, destination: usize, decoded_path: &str) -> bool {
        self.routes
            .get(destination)
            .is_some_and(|r| r.mcp.contains_key(decoded_path))
    }

    pub(crate) fn mcp(
        &self,
        destination: usize,
        decoded_path: &str,
        key: McpKey<'_>,
    ) -> Option<usize> {
        let endpoint = self.routes.get(destination)?.mcp.get(decoded_path)?;
        let found = match key {
            McpKey::Tool(tool) => endpoint.tools.get(tool),
            McpKey::Method(method) => endpoint.methods.get(method).or_else(|| {
                method
                    .starts_with("notifications/")
                    .then(|| endpoint.methods.get("notifications/*"))
                    .flatten()
            }),
        };
        found.copied()
    }

    pub(crate) fn opaque(&self, destination: usize) -> Option<usize> {
        self.routes.get(destination)?.opaque
    }

    pub(crate) fn custom(&self, destination: usize, capability: &str) -> Option<usize> {
        self.routes
            .get(destination)?
            .custom
            .get(capability)
            .copied()
    }
}

pub(crate) fn parse_path(entry: &EntrySpec) -> Result<Template, CatalogError> {
    let path = entry.path.as_deref().unwrap_or_default();
    Template::parse(path).map_err(|problem| CatalogError::Invalid {
        item: format!("entry {}", entry.name),
        problem,
    })
}

fn duplicate(
    entries: &[EntrySpec],
    previous: Option<usize>,
    at: usize,
    what: &'static str,
) -> Result<(), CatalogError> {
    let name = |at: usize| format!("entry {}", entries.get(at).map_or("?", |e| e.name.as_str()));
    match previous {
        None => Ok(()),
        Some(first) => Err(CatalogError::Duplicate {
            what,
            first: name(first),
            second: name(at),
        }),
    }
}

fn check_overlap(
    entries: &[EntrySpec],
    at: usize,
    template: &Template,
    others: &[HttpRoute],
) -> Result<(), CatalogError> {
    let Some(entry) = entries.get(at) else {
        return Ok(());
    };
    for other in others {
        let Some(earlier) = entries.get(other.entry) else {
            continue;
        };
        let ambiguous = match template.compare(&other.template) {
            Overlap::Disjoint | Overlap::Ranked => false,
            // Different shapes never share a router slot, so their queries could not tell them apart.
            Overlap::Ambiguous => true,
            Overlap::Equal => {
                !queries_exclude_each_other(entry.query.as_ref(), earlier.query.as_ref())
            }
        };
        if ambiguous {
            return Err(CatalogError::Ambiguous {
                first: earlier.name.clone(),
                second: entry.name.clone(),
            });
        }
    }
    Ok(())
}

fn queries_exclude_each_other(a: Option<&QuerySpec>, b: Option<&QuerySpec>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return false;
    };
    a.equals
        .iter()
        .any(|(key, value)| b.equals.get(key).is_some_and(|other| other != value))
}
