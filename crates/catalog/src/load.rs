//! From document to catalog.

use std::collections::BTreeMap;

use serde_json::Value;
use writ_canonical::json::{self, JsonLimits};
use writ_canonical::sha256;

use crate::detect::{Detectors, RULESET_SHA256};
use crate::error::CatalogError;
use crate::index::{Index, parse_path};
use crate::model::{AgentTls, Document, EntrySpec, Preset, PresetSpec, Protocol, ResourceSpec};
use crate::{Catalog, destination, validate};

/// Longest document, bytes.
const MAX_BYTES: usize = 1024 * 1024;
const MAX_DESTINATIONS: usize = 1_000;
const MAX_ENTRIES: usize = 10_000;
const MAX_PARAMS: usize = 8;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// What `mcp-base` stands for: entry, JSON-RPC method (or the word that the index uses), capability.
const MCP_BASE: [(&str, &str, &str); 7] = [
    ("initialize", "initialize", "mcp.initialize"),
    ("ping", "ping", "mcp.ping"),
    ("tools-list", "tools/list", "mcp.tools.list"),
    ("notifications", "notifications/*", "mcp.notifications"),
    ("response", "response", "mcp.response"),
    ("stream", "stream", "mcp.stream"),
    ("close", "close", "mcp.close"),
];

impl Catalog {
    /// Loads a YAML document. It is read as JSON first, so that its hash can be recomputed with any
    /// YAML reader and RFC 8785.
    ///
    /// # Errors
    /// A [`CatalogError`] that names the entry and what to change.
    pub fn from_yaml(text: &str) -> Result<Self, CatalogError> {
        if text.len() > MAX_BYTES {
            return Err(CatalogError::TooLarge { limit: MAX_BYTES });
        }
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| CatalogError::Yaml(error.to_string()))?;
        let json =
            serde_json::to_vec(&value).map_err(|error| CatalogError::Yaml(error.to_string()))?;
        Self::load(&json)
    }

    /// Loads a JSON document.
    ///
    /// # Errors
    /// A [`CatalogError`] that names the entry and what to change.
    pub fn from_json(text: &[u8]) -> Result<Self, CatalogError> {
        if text.len() > MAX_BYTES {
            return Err(CatalogError::TooLarge { limit: MAX_BYTES });
        }
        Self::load(text)
    }

    fn load(text: &[u8]) -> Result<Self, CatalogError> {
        let limits = JsonLimits {
            max_bytes: 2 * MAX_BYTES,
            ..JsonLimits::default()
        };
        let value = json::parse_strict(text, &limits)?;
        let hash = sha256(&json::to_jcs(&value));
        let document: Document =
            serde_path_to_error::deserialize(&value).map_err(|error| CatalogError::Schema {
                path: error.path().to_string(),
                problem: error.inner().to_string(),
            })?;
        build(document, hash)
    }

    /// JSON Schema of the document (draft 2020-12), as committed in `docs/schemas/`.
    #[must_use]
    pub fn json_schema() -> Value {
        schemars::schema_for!(Document).to_value()
    }
}

fn build(document: Document, hash: [u8; 32]) -> Result<Catalog, CatalogError> {
    if document.version != 1 {
        return Err(CatalogError::Version(document.version));
    }
    validate::name("the catalog", &document.name)?;
    limit(
        "destinations",
        document.destinations.len(),
        MAX_DESTINATIONS,
    )?;
    limit(
        "entries",
        document
            .entries
            .len()
            .saturating_add(document.presets.len()),
        MAX_ENTRIES,
    )?;
    unique_names(
        "destination",
        document.destinations.iter().map(|d| d.name.as_str()),
    )?;
    let detectors = detectors(&document)?;
    let mut destinations = Vec::with_capacity(document.destinations.len());
    for (at, spec) in document.destinations.iter().enumerate() {
        destinations.push(destination::build(spec, at)?);
    }
    let mut entries = document.entries.clone();
    for preset in &document.presets {
        entries.extend(expand(preset));
    }
    unique_names("entry", entries.iter().map(|e| e.name.as_str()))?;
    for entry in &document.entries {
        check_entry(entry)?;
    }
    for preset in &document.presets {
        expand(preset).iter().try_for_each(check_mcp_path)?;
    }
    let index = Index::build(&destinations, &entries)?;
    check_reachable(&document, &entries)?;
    Ok(Catalog {
        document,
        hash,
        destinations,
        entries,
        index,
        detectors,
    })
}

fn detectors(document: &Document) -> Result<Detectors, CatalogError> {
    let Some(settings) = &document.detectors else {
        return Detectors::new(&[]);
    };
    if let Some(wanted) = &settings.ruleset
        && wanted != RULESET_SHA256
    {
        return Err(CatalogError::Ruleset {
            wanted: wanted.clone(),
            present: RULESET_SHA256.to_owned(),
        });
    }
    Detectors::new(&settings.disabled)
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), CatalogError> {
    if count > limit {
        Err(CatalogError::TooMany { what, limit })
    } else {
        Ok(())
    }
}

fn unique_names<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Result<(), CatalogError> {
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    for name in names {
        if seen.insert(name, ()).is_some() {
            let item = format!("{kind} {name}");
            return Err(CatalogError::Duplicate {
                what: "name",
                first: item.clone(),
                second: item,
            });
        }
    }
    Ok(())
}

fn expand(preset: &PresetSpec) -> Vec<EntrySpec> {
    let Preset::McpBase = preset.preset;
    MCP_BASE
        .iter()
        .map(|(name, method, capability)| EntrySpec {
            name: format!(
                "{}.mcp-base{}.{name}",
                preset.destination,
                preset
                    .path
                    .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
            ),
            destination: preset.destination.clone(),
            protocol: Protocol::Mcp,
            method: Some((*method).to_owned()),
            path: Some(preset.path.clone()),
            query: None,
            tool: None,
            capability: (*capability).to_owned(),
            class: preset.class,
            resource: None,
            window: 0,
            amount: None,
            require: Vec::new(),
            params: Vec::new(),
            risk: 0,
        })
        .collect()
}

fn check_entry(entry: &EntrySpec) -> Result<(), CatalogError> {
    let item = format!("entry {}", entry.name);
    let contradiction = |problem| {
        Err(CatalogError::Contradiction {
            item: item.clone(),
            problem,
        })
    };
    validate::name(&item, &entry.name)?;
    validate::capability(&item, &entry.capability)?;
    if entry.risk > 100 {
        return Err(CatalogError::Invalid {
            item,
            problem: "risk is 0 to 100".to_owned(),
        });
    }
    check_values(&item, entry)?;
    match entry.protocol {
        Protocol::Http => {
            if entry.tool.is_some() {
                return contradiction(
                    "tool belongs to protocol: mcp; remove it or change the protocol",
                );
            }
            if !entry
                .method
                .as_deref()
                .is_some_and(|m| METHODS.contains(&m))
            {
                return contradiction(
                    "method must be one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                );
            }
            let template = parse_path(entry)?;
            if let Some(ResourceSpec::Variable(name)) = &entry.resource
                && !template.variables().any(|v| v == name)
            {
                return contradiction("resource.variable is not a variable of the path");
            }
            Ok(())
        }
        Protocol::Mcp => check_mcp(&item, entry),
        Protocol::Opaque => {
            let described = entry.method.is_some()
                || entry.path.is_some()
                || entry.query.is_some()
                || entry.tool.is_some();
            let reads =
                entry.amount.is_some() || !entry.require.is_empty() || !entry.params.is_empty();
            let constant = matches!(entry.resource, None | Some(ResourceSpec::Constant(_)));
            if described || reads || !constant {
                return contradiction(
                    "an opaque connection is not read: remove method, path, query, tool, amount, require and params; a resource can only be constant",
                );
            }
            Ok(())
        }
        Protocol::Custom => {
            let described = entry.method.is_some()
                || entry.path.is_some()
                || entry.query.is_some()
                || entry.tool.is_some();
            if described || matches!(entry.resource, Some(ResourceSpec::Variable(_))) {
                return contradiction(
                    "a custom action is named by its capability: remove method, path, query, tool and resource.variable; use pointers into its params",
                );
            }
            Ok(())
        }
        Protocol::Grpc => unsupported(entry, "grpc"),
        Protocol::A2a => unsupported(entry, "a2a"),
        Protocol::Ws => unsupported(entry, "ws"),
    }
}

fn unsupported(entry: &EntrySpec, protocol: &'static str) -> Result<(), CatalogError> {
    Err(CatalogError::Unsupported {
        entry: entry.name.clone(),
        protocol,
    })
}

fn check_mcp(item: &str, entry: &EntrySpec) -> Result<(), CatalogError> {
    let contradiction = |problem| {
        Err(CatalogError::Contradiction {
            item: item.to_owned(),
            problem,
        })
    };
    if entry.query.is_some() {
        return contradiction("query belongs to protocol: http; an MCP endpoint takes none");
    }
    if matches!(entry.resource, Some(ResourceSpec::Variable(_))) {
        return contradiction(
            "resource.variable belongs to protocol: http; use pointer into the arguments",
        );
    }
    if entry.amount.is_some() && entry.tool.is_none() {
        return contradiction(
            "an amount stands in the arguments of a tool; write tool instead of method",
        );
    }
    match (&entry.tool, &entry.method) {
        (Some(tool), None) => validate::mcp_name(item, tool)?,
        (None, Some(method))
            if matches!(
                method.as_str(),
                "tools/call" | "response" | "stream" | "close"
            ) =>
        {
            return contradiction(
                "tools/call is named by tool; response, stream and close come from the preset mcp-base",
            );
        }
        (None, Some(method)) => validate::mcp_name(item, method)?,
        _ => return contradiction("write exactly one of tool and method"),
    }
    check_mcp_path(entry)
}

fn check_mcp_path(entry: &EntrySpec) -> Result<(), CatalogError> {
    if parse_path(entry)?.is_literal() {
        return Ok(());
    }
    Err(CatalogError::Contradiction {
        item: format!("entry {}", entry.name),
        problem: "the path of an MCP endpoint has no variables; write one entry per endpoint",
    })
}

fn check_values(item: &str, entry: &EntrySpec) -> Result<(), CatalogError> {
    let invalid = |problem: &str| {
        Err(CatalogError::Invalid {
            item: item.to_owned(),
            problem: problem.to_owned(),
        })
    };
    if let Some(amount) = &entry.amount {
        validate::pointer(item, &amount.pointer)?;
        if amount.scale > 36 || !(1..=70).contains(&amount.max_digits) {
            return invalid("amount.scale is 0 to 36 and amount.max_digits 1 to 70");
        }
        if !(1..=32).contains(&amount.unit.len())
            || !amount.unit.bytes().all(|b| b.is_ascii_graphic())
        {
            return invalid("amount.unit is 1 to 32 printable ASCII characters");
        }
    }
    if entry.params.len() > MAX_PARAMS {
        return Err(CatalogError::TooMany {
            what: "params in one entry",
            limit: MAX_PARAMS,
        });
    }
    for pointer in &entry.params {
        validate::pointer(item, pointer)?;
    }
    for require in &entry.require {
        validate::pointer(item, &require.pointer)?;
    }
    match &entry.resource {
        Some(ResourceSpec::Pointer(pointer)) => validate::pointer(item, pointer),
        Some(ResourceSpec::Constant(text)) if !(1..=256).contains(&text.len()) => {
            invalid("resource.constant is 1 to 256 bytes")
        }
        _ => Ok(()),
    }
}

/// Every entry must fit its destination, else it can never match.
fn check_reachable(document: &Document, entries: &[EntrySpec]) -> Result<(), CatalogError> {
    for entry in entries {
        let Some(destination) = document
            .destinations
            .iter()
            .find(|d| d.name == entry.destination)
        else {
            continue;
        };
        // The agent carries a custom action out itself, over whatever way the target has.
        if entry.protocol == Protocol::Custom {
            continue;
        }
        let opaque = destination.agent_tls == AgentTls::Opaque;
        let problem = if destination.agent_tls == AgentTls::Refuse {
            "its destination has agent_tls: refuse, so nothing reaches it; write originate, intercept or opaque there"
        } else if opaque && entry.protocol != Protocol::Opaque {
            "its destination has agent_tls: opaque, so requests cannot be read; write protocol: opaque, or originate or intercept there"
        } else if !opaque && entry.protocol == Protocol::Opaque {
            "protocol: opaque needs agent_tls: opaque at its destination"
        } else {
            continue;
        };
        return Err(CatalogError::Contradiction {
            item: format!("entry {}", entry.name),
            problem,
        });
    }
    Ok(())
}
