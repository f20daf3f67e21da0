//! Why a request is denied before policy is asked.

use std::fmt;

use thiserror::Error;
use writ_canonical::json::JsonError;

use crate::UNLISTED;

/// A denial by the catalog: the capability as far as it is known, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Capability of the entry that matched, else [`UNLISTED`].
    pub capability: String,
    /// Name of the entry that matched.
    pub entry: Option<String>,
    /// Why.
    pub reason: Reason,
}

impl Refusal {
    pub(crate) fn unlisted(reason: Reason) -> Self {
        Self {
            capability: UNLISTED.to_owned(),
            entry: None,
            reason,
        }
    }

    /// Stable identifier, kebab-case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "entry {entry}: {}", self.reason),
            None => write!(f, "{}", self.reason),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why the catalog denies. Texts say what to change and never repeat content.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// No entry.
    #[error(
        "no catalog entry matches this request: the platform team adds one, or use another operation"
    )]
    Unlisted,
    /// The destination passes nothing of this kind.
    #[error(
        "the destination is not configured for this kind of traffic: check agent_tls and the protocol of its entries"
    )]
    ProtocolMismatch,
    /// POST to an MCP endpoint that was not read as MCP.
    #[error("this path is an MCP endpoint: send one JSON-RPC message as application/json by POST")]
    McpExpected,
    /// A constrained query that can be read in two ways.
    #[error(
        "the query repeats a parameter that the catalog constrains, or separates parameters by ';': send each once, separated by '&'"
    )]
    QueryAmbiguous,
    /// The entry needs the body and there is none.
    #[error("this operation needs a JSON body: send one")]
    BodyMissing,
    /// The entry needs the body, which was not read as a whole.
    #[error(
        "this operation needs its whole body before it is decided: send a smaller one, and no stream"
    )]
    BodyUnbound,
    /// Over what the catalog reads.
    #[error("the body is larger than {limit} bytes: send less")]
    BodyTooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// Content-Encoding other than identity.
    #[error("the body has a Content-Encoding and cannot be read: send it without one")]
    BodyEncoded,
    /// The entry needs JSON, the Content-Type says otherwise.
    #[error("this operation needs Content-Type application/json (or +json): set it")]
    BodyNotJson,
    /// Not strict JSON.
    #[error("the body is not acceptable JSON: {0}")]
    Json(JsonError),
    /// A required value is missing or different.
    #[error("the value at {pointer} is missing or not the one that this operation requires")]
    Require {
        /// JSON pointer from the catalog.
        pointer: String,
    },
    /// No value at the resource's pointer, or not a short string or integer.
    #[error(
        "the resource at {pointer} is missing, or not a string or integer of at most {limit} bytes"
    )]
    Resource {
        /// JSON pointer or variable from the catalog.
        pointer: String,
        /// Limit in bytes.
        limit: usize,
    },
    /// A selected parameter that is no short scalar.
    #[error(
        "the parameter at {pointer} is not a scalar, or the selected parameters together exceed {limit} bytes"
    )]
    Param {
        /// JSON pointer from the catalog.
        pointer: String,
        /// Limit in bytes.
        limit: usize,
    },
    /// No amount.
    #[error("the amount at {pointer} is missing: send it")]
    AmountMissing {
        /// JSON pointer from the catalog.
        pointer: String,
    },
    /// Neither string nor number.
    #[error("the amount at {pointer} is neither a string nor a number")]
    AmountType {
        /// JSON pointer from the catalog.
        pointer: String,
    },
    /// Below zero, or minus zero.
    #[error("the amount at {pointer} has a sign: send it without")]
    AmountSign {
        /// JSON pointer from the catalog.
        pointer: String,
    },
    /// Scientific notation.
    #[error("the amount at {pointer} is written with an exponent: write plain decimal digits")]
    AmountExponent {
        /// JSON pointer from the catalog.
        pointer: String,
    },
    /// Anything but digits and one point, or leading zeros.
    #[error(
        "the amount at {pointer} is not a plain decimal (digits, at most one point, no leading zeros, separators or spaces)"
    )]
    AmountForm {
        /// JSON pointer from the catalog.
        pointer: String,
    },
    /// More digits than the entry allows.
    #[error("the amount at {pointer} has more than {limit} digits")]
    AmountDigits {
        /// JSON pointer from the catalog.
        pointer: String,
        /// Limit.
        limit: u8,
    },
    /// More decimals than the unit has.
    #[error("the amount at {pointer} has more than {limit} decimals: round it before sending")]
    AmountDecimals {
        /// JSON pointer from the catalog.
        pointer: String,
        /// Limit.
        limit: u8,
    },
}

impl Reason {
    /// Stable identifier, kebab-case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unlisted => "unlisted",
            Self::ProtocolMismatch => "protocol-mismatch",
            Self::McpExpected => "mcp-expected",
            Self::QueryAmbiguous => "query-ambiguous",
            Self::BodyMissing => "body-missing",
            Self::BodyUnbound => "body-unbound",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::BodyEncoded => "body-encoded",
            Self::BodyNotJson => "body-not-json",
            Self::Json(error) => error.code(),
            Self::Require { .. } => "require-mismatch",
            Self::Resource { .. } => "resource-missing",
            Self::Param { .. } => "param-not-scalar",
            Self::AmountMissing { .. } => "amount-missing",
            Self::AmountType { .. } => "amount-type",
            Self::AmountSign { .. } => "amount-sign",
            Self::AmountExponent { .. } => "amount-exponent",
            Self::AmountForm { .. } => "amount-form",
            Self::AmountDigits { .. } => "amount-digits",
            Self::AmountDecimals { .. } => "amount-decimals",
        }
    }
}
