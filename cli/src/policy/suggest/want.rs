//! What names an action in a catalog, and the entry that does. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use writ_catalog::CUSTOM_ACTION;
use writ_catalog::model::{Class, EntrySpec, Protocol};

use super::names::words;
use super::paths::Template;
use crate::policy::replay;
use crate::policy::seen::Seen;
use crate::policy::source::Written;

/// What names an action in a catalog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// An entry of the base.
    Base(String),
    /// An entry that the preset brings.
    Preset(String),
    Http(String, Template),
    Tool(String, String),
    Message(String, String),
    Opaque,
}

/// What names an action.
///
/// # Errors
/// Why nothing can.
pub fn want(
    seen: &Seen,
    opaque: bool,
    is_endpoint: bool,
    base: Option<&Written>,
) -> Result<Want, String> {
    let named = base.and_then(|b| replay::name(seen, &b.catalog).ok());
    let path = seen.path.as_deref().unwrap_or_default();
    if let Some(named) = named {
        let entries = base.map(|b| &b.catalog.document().entries);
        let there = entries.is_some_and(|all| all.iter().any(|e| e.name == named.entry));
        return if there {
            Ok(Want::Base(named.entry))
        } else {
            Ok(Want::Preset(path.to_owned()))
        };
    }
    if seen.method.as_deref() == Some(CUSTOM_ACTION) {
        return Err(no_custom_entry(seen));
    }
    if opaque {
        return match (&seen.tool, &seen.path) {
            (None, None) => Ok(Want::Opaque),
            _ => Err("its destination passes unread (agent_tls: opaque)".to_owned()),
        };
    }
    let endpoint = || -> Result<String, String> {
        // An endpoint is looked up as it is written, so it must be plain.
        let exactly = Template::exactly(path).map_err(str::to_owned)?;
        Ok(exactly.text())
    };
    if let Some(tool) = &seen.tool {
        let valid = (1..=128).contains(&tool.len()) && tool.bytes().all(|b| b.is_ascii_graphic());
        return match valid {
            true => Ok(Want::Tool(endpoint()?, tool.clone())),
            false => Err("the tool's name is none that a catalog takes".to_owned()),
        };
    }
    let method = seen.method.as_deref().unwrap_or_default();
    let http = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    match method {
        "GET" | "DELETE" if is_endpoint => Ok(Want::Preset(endpoint()?)),
        "POST" if is_endpoint => {
            Err("an MCP message that calls no tool, and whose method was not recorded".to_owned())
        }
        method if http.contains(&method) => {
            let template = Template::of(path).map_err(str::to_owned)?;
            Ok(Want::Http(method.to_owned(), template))
        }
        "initialize" | "ping" | "tools/list" | "response" => Ok(Want::Preset(endpoint()?)),
        method if method.starts_with("notifications/") => Ok(Want::Preset(endpoint()?)),
        "" | "tools/call" | "stream" | "close" => {
            Err("neither a method nor a tool was recorded of it".to_owned())
        }
        method if method.len() <= 128 && method.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Want::Message(endpoint()?, method.to_owned()))
        }
        _ => Err("its method is none that a catalog takes".to_owned()),
    }
}

/// Why an action of the local API is not suggested: only who knows what it does can name it.
pub fn no_custom_entry(seen: &Seen) -> String {
    let capability = seen.tool.as_deref().unwrap_or_default();
    format!("no entry names it: write one with protocol: custom and capability: {capability}")
}

/// Where templates compete for paths, the paths themselves are taken.
pub fn settle(wants: &mut BTreeMap<usize, (String, Want, u8)>, placed: &[(usize, &Seen, String)]) {
    let mut templates: BTreeMap<(String, String), BTreeSet<Template>> = BTreeMap::new();
    for (destination, want, _) in wants.values() {
        if let Want::Http(method, template) = want {
            let key = (destination.clone(), method.clone());
            templates.entry(key).or_default().insert(template.clone());
        }
    }
    templates.retain(|_, all| {
        all.iter()
            .any(|a| all.iter().any(|b| a.is_ambiguous_with(b)))
    });
    for (at, seen, _) in placed {
        let Some((destination, want, _)) = wants.get_mut(at) else {
            continue;
        };
        if let Want::Http(method, template) = want
            && templates.contains_key(&(destination.clone(), method.clone()))
            && let Ok(exactly) = Template::exactly(seen.path.as_deref().unwrap_or_default())
        {
            *template = exactly;
        }
    }
}

/// The entry that names it.
pub fn entry(destination: &str, want: &Want, class: u8) -> EntrySpec {
    let dest = words(destination, 40);
    let (protocol, method, path, tool, name) = match want {
        Want::Http(method, template) => {
            let verb = method.to_ascii_lowercase();
            let name = format!("{verb}-{}", words(&template.literals(), 50));
            (
                Protocol::Http,
                Some(method.clone()),
                Some(template.text()),
                None,
                name,
            )
        }
        Want::Tool(path, tool) => {
            let name = format!("tool-{}", words(tool, 50));
            (
                Protocol::Mcp,
                None,
                Some(path.clone()),
                Some(tool.clone()),
                name,
            )
        }
        Want::Message(path, method) => {
            let name = format!("message-{}", words(method, 50));
            (
                Protocol::Mcp,
                Some(method.clone()),
                Some(path.clone()),
                None,
                name,
            )
        }
        Want::Opaque | Want::Base(_) | Want::Preset(_) => {
            (Protocol::Opaque, None, None, None, "connect".to_owned())
        }
    };
    EntrySpec {
        name: format!("{dest}-{name}"),
        destination: destination.to_owned(),
        protocol,
        method,
        path,
        query: None,
        tool,
        capability: format!("{dest}.{name}"),
        class: level(class),
        resource: None,
        window: 0,
        amount: None,
        require: Vec::new(),
        params: Vec::new(),
        risk: 0,
    }
}

/// The capability that it shares with others of its destination.
pub fn coarse(destination: &str, want: &Want) -> String {
    let dest = words(destination, 64);
    let what = match want {
        Want::Http(method, _) if matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS") => "read",
        Want::Http(..) => "write",
        Want::Tool(..) => "tools",
        Want::Message(..) => "messages",
        Want::Opaque | Want::Base(_) | Want::Preset(_) => "connect",
    };
    format!("{dest}.{what}")
}

/// A class by its number.
pub fn level(class: u8) -> Class {
    match class {
        0 => Class::Public,
        1 => Class::Internal,
        2 => Class::Confidential,
        _ => Class::Restricted,
    }
}
