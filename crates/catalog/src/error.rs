//! Why a catalog is not loaded.

use thiserror::Error;

/// A catalog that is not used. The text names the entry or destination and what to change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// Longer than 1 MiB.
    #[error("the catalog is longer than {limit} bytes: split the agents that use it")]
    TooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// Not YAML, or YAML that has no JSON form.
    #[error("the catalog is not YAML with a JSON form: {0}")]
    Yaml(String),
    /// Not strict JSON.
    #[error("the catalog is not acceptable JSON: {0}")]
    Json(#[from] writ_canonical::json::JsonError),
    /// Not the schema: unknown field, missing field, wrong type.
    #[error("the catalog does not follow docs/schemas/catalog.schema.json at {path}: {problem}")]
    Schema {
        /// Where, such as `entries[2].class`.
        path: String,
        /// What.
        problem: String,
    },
    /// A version other than 1.
    #[error("catalog version {0} is not known here: write version: 1")]
    Version(u32),
    /// Too many items.
    #[error("the catalog has more than {limit} {what}: split it")]
    TooMany {
        /// Which items.
        what: &'static str,
        /// Limit.
        limit: usize,
    },
    /// A name, host, pointer, capability or number of the wrong form.
    #[error("{item}: {problem}")]
    Invalid {
        /// Which destination or entry.
        item: String,
        /// What to change.
        problem: String,
    },
    /// Two items of the same name or address.
    #[error("{first} and {second} are the same {what}: remove or merge one")]
    Duplicate {
        /// What is the same.
        what: &'static str,
        /// One item.
        first: String,
        /// The other item.
        second: String,
    },
    /// Two entries that match one request, neither more specific.
    #[error(
        "entries {first} and {second} both match some requests and neither is more specific: make their paths or their query.equals exclude each other"
    )]
    Ambiguous {
        /// One entry.
        first: String,
        /// The other entry.
        second: String,
    },
    /// Settings of one destination or entry that cannot hold together.
    #[error("{item}: {problem}")]
    Contradiction {
        /// Which destination or entry.
        item: String,
        /// What contradicts what, and what to change.
        problem: &'static str,
    },
    /// A reserved protocol.
    #[error(
        "entry {entry}: protocol {protocol} is reserved and not supported by this version: remove the entry"
    )]
    Unsupported {
        /// Which entry.
        entry: String,
        /// Which protocol.
        protocol: &'static str,
    },
    /// The catalog pins another detector rule set.
    #[error(
        "the catalog pins detector rule set {wanted}, this program has {present}: update detectors.ruleset after reviewing the rules, or run the version that has them"
    )]
    Ruleset {
        /// Pinned, hex.
        wanted: String,
        /// Built in, hex.
        present: String,
    },
    /// The built-in rule set does not load; a defect of the build.
    #[error("the built-in detector rule set does not load: {0}")]
    Detectors(String),
}

impl CatalogError {
    /// Stable identifier, kebab-case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "catalog-too-large",
            Self::Yaml(_) => "catalog-yaml",
            Self::Json(_) => "catalog-json",
            Self::Schema { .. } => "catalog-schema",
            Self::Version(_) => "catalog-version",
            Self::TooMany { .. } => "catalog-too-many",
            Self::Invalid { .. } => "catalog-invalid",
            Self::Duplicate { .. } => "catalog-duplicate",
            Self::Ambiguous { .. } => "catalog-ambiguous",
            Self::Contradiction { .. } => "catalog-contradiction",
            Self::Unsupported { .. } => "catalog-unsupported",
            Self::Ruleset { .. } => "catalog-ruleset",
            Self::Detectors(_) => "catalog-detectors",
        }
    }
}
