//! What a peer may make us hold.

/// Bounds on a request head. Sizes are bytes on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest path accepted.
    pub max_path: usize,
    /// Longest query accepted.
    pub max_query: usize,
    /// Most header field lines accepted.
    pub max_fields: usize,
    /// Sum of all names and values accepted.
    pub max_fields_bytes: usize,
    /// What to do with `;` in a path segment.
    pub path_parameters: PathParameters,
}

/// `;` in a path: some servers cut a segment at it (matrix parameters), others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathParameters {
    /// Refuse a path that contains `;`, plain or encoded.
    #[default]
    Refuse,
    /// Keep it as an ordinary character. Only for targets known not to cut at it.
    Literal,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_path: 8 * 1024,
            max_query: 8 * 1024,
            max_fields: 100,
            max_fields_bytes: 32 * 1024,
            path_parameters: PathParameters::Refuse,
        }
    }
}
