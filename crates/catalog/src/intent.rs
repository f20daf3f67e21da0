//! What a request is.

use serde_json::{Map, Value};

use crate::detect::Finding;
use crate::{Amount, Class};

/// `act.kind` of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An HTTP request.
    Http,
    /// An MCP message.
    Mcp,
    /// A connection that passes unread.
    Opaque,
    /// An action that the agent describes and carries out itself.
    Custom,
}

impl Kind {
    /// As in the envelope.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::Opaque => "opaque",
            Self::Custom => "custom",
        }
    }
}

/// What a request is, as far as the catalog says: the input of a policy decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    /// Kind of action.
    pub kind: Kind,
    /// Name of the entry that matched.
    pub entry: String,
    /// Dotted capability.
    pub capability: String,
    /// 0 public, 1 internal, 2 confidential, 3 restricted: the entry's class, raised by findings.
    pub class: u8,
    /// What is acted on.
    pub resource: Option<String>,
    /// Amount in the unit's smallest part.
    pub amount: Option<Amount>,
    /// Budget window in seconds; 0: none.
    pub window: u32,
    /// Static risk score.
    pub risk: u8,
    /// SHA-256 that stands for all parameters; see `docs/catalog.md` for the exact input.
    pub params_digest: [u8; 32],
    /// Selected parameters by JSON pointer.
    pub selected: Map<String, Value>,
    /// What the detectors found; never the matched text.
    pub findings: Vec<Finding>,
}

impl Intent {
    /// The class as a name.
    #[must_use]
    pub fn class_name(&self) -> Class {
        match self.class {
            0 => Class::Public,
            1 => Class::Internal,
            2 => Class::Confidential,
            _ => Class::Restricted,
        }
    }
}
