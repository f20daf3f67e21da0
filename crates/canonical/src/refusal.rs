//! Why a request has no canonical form.

use thiserror::Error;

/// A request that cannot be represented without guessing. A value, not a failure: it is recorded and
/// answered with [`Refusal::status`]. The text says what the sender has to change and never repeats
/// the value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A method that is not in the known set.
    #[error("method is not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS: use one of these")]
    MethodUnknown,
    /// CONNECT or TRACE: a tunnel or an echo cannot be decided as an action.
    #[error(
        "CONNECT and TRACE cannot be decided as actions: call the destination by its own name instead of through a tunnel"
    )]
    MethodRefused,
    /// No authority at all.
    #[error("the request names no authority: send Host (HTTP/1.1) or :authority (HTTP/2)")]
    AuthorityMissing,
    /// `user@host`.
    #[error("the authority carries userinfo: remove everything up to and including '@'")]
    AuthorityUserinfo,
    /// Port that is not 1 to 65535 in plain decimal.
    #[error(
        "the port of the authority is not a decimal number from 1 to 65535 without leading zeros"
    )]
    AuthorityPort,
    /// A host that is neither a DNS name nor an IP literal.
    #[error(
        "the host is neither a valid DNS name (LDH labels, IDNA) nor an IP literal: correct its spelling"
    )]
    AuthorityHost,
    /// A number that some resolvers read as an IPv4 address, or a v4-mapped or scoped IPv6 literal.
    #[error(
        "the host is an IP address in a form that resolvers read differently: write dotted decimal, or IPv6 in brackets without a zone and not v4-mapped"
    )]
    AuthorityIpForm,
    /// `example.com.`
    #[error("the host ends in a dot: remove it")]
    AuthorityTrailingDot,
    /// Host field and authority differ.
    #[error("the Host field differs from the request's authority: send one authority only")]
    HostMismatch,
    /// Not origin-form.
    #[error("the path does not start with '/': send an absolute path (for OPTIONS too)")]
    PathForm,
    /// Over [`crate::Limits::max_path`].
    #[error("the path is longer than {limit} bytes: shorten it")]
    PathTooLong {
        /// Limit in bytes.
        limit: usize,
    },
    /// Empty segment.
    #[error("the path contains '//': remove the empty segment")]
    PathEmptySegment,
    /// `.` or `..`, plain or encoded.
    #[error("the path contains a '.' or '..' segment: send the path it resolves to")]
    PathDotSegment,
    /// `%2e`
    #[error("the path contains an encoded dot (%2E): write the dot itself")]
    PathEncodedDot,
    /// `%2f`, `%5c` or a look-alike of either.
    #[error(
        "the path contains an encoded slash or backslash, or a character that is mapped to one: a segment cannot contain a separator"
    )]
    PathEncodedSeparator,
    /// `%25`
    #[error(
        "the path contains an encoded percent sign (%25): a second decoding would change it, use another identifier"
    )]
    PathDoubleEncoding,
    /// Control byte, plain or encoded.
    #[error("the path contains a control character, plain or encoded: remove it")]
    PathControl,
    /// A byte that must be percent-encoded.
    #[error("the path contains a byte that RFC 3986 does not allow there: percent-encode it")]
    PathByte,
    /// `%` without two hex digits.
    #[error("the path contains '%' without two hexadecimal digits: complete the encoding")]
    PathPercent,
    /// Encoded bytes that are not UTF-8.
    #[error("the percent-encoded bytes of the path are not UTF-8: encode the path as UTF-8")]
    PathNotUtf8,
    /// `;`
    #[error(
        "the path contains ';': servers disagree on whether it ends the segment, use the query instead"
    )]
    PathParameter,
    /// Over [`crate::Limits::max_query`].
    #[error("the query is longer than {limit} bytes: send the data in the body")]
    QueryTooLong {
        /// Limit in bytes.
        limit: usize,
    },
    /// A byte that must be percent-encoded.
    #[error("the query contains a byte that RFC 3986 does not allow there: percent-encode it")]
    QueryByte,
    /// `%` without two hex digits.
    #[error("the query contains '%' without two hexadecimal digits: complete the encoding")]
    QueryPercent,
    /// `%00`
    #[error("the query contains an encoded NUL (%00): remove it")]
    QueryNul,
    /// Too many field lines.
    #[error("more than {limit} header fields: send fewer")]
    TooManyFields {
        /// Limit in lines.
        limit: usize,
    },
    /// Field section too large.
    #[error("the header fields are larger than {limit} bytes together: send less")]
    FieldsTooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// A field that may occur once occurs more often.
    #[error("header field {name} occurs more than once: send it once")]
    DuplicateField {
        /// Lower-case field name.
        name: String,
    },
    /// `a_b`, which CGI-like servers read as `a-b`.
    #[error(
        "header field {name} is read as another field by servers that map '_' to '-': rename it"
    )]
    FieldNameAlias {
        /// Lower-case field name.
        name: String,
    },
    /// CR, LF, NUL or another control character, or surrounding white space.
    #[error(
        "the value of header field {name} contains a control character or surrounding white space: remove it (line folding is not accepted)"
    )]
    FieldValue {
        /// Lower-case field name.
        name: String,
    },
    /// A field that makes servers run another method.
    #[error("header field {name} overrides the method: send the method itself")]
    MethodOverride {
        /// Lower-case field name.
        name: String,
    },
    /// A field that makes servers route another path or host.
    #[error("header field {name} rewrites the URL: send the URL itself")]
    UrlRewrite {
        /// Lower-case field name.
        name: String,
    },
    /// Connection lists an end-to-end field, which a hop would then drop.
    #[error("Connection lists {name}: only close, keep-alive and TE may be listed")]
    ConnectionListed {
        /// Lower-case option.
        name: String,
    },
    /// Upgrade.
    #[error("Upgrade is not accepted on this path: send the request without it")]
    Upgrade,
    /// Content-Length is not one plain decimal number.
    #[error("Content-Length is not a plain decimal number: send one number")]
    ContentLength,
    /// Transfer-Encoding other than `chunked`, or together with Content-Length.
    #[error(
        "Transfer-Encoding conflicts: send either Content-Length or exactly 'Transfer-Encoding: chunked', and neither in HTTP/2 form"
    )]
    TransferEncoding,
    /// Trailers are not covered by the fields digest.
    #[error(
        "request trailers are not covered by the envelope: send the fields in the header section"
    )]
    Trailers,
    /// Expect other than 100-continue.
    #[error("Expect has a value other than 100-continue: remove it")]
    Expect,
    /// A Content-Digest that cannot be parsed, or that has no algorithm that we check.
    #[error(
        "Content-Digest is not an RFC 9530 dictionary with sha-256 or sha-512: correct it or leave it out"
    )]
    ContentDigestForm,
    /// A Content-Digest of other content.
    #[error(
        "Content-Digest differs from the content received: send the digest of the content as transferred"
    )]
    ContentDigestMismatch,
}

impl Refusal {
    /// Stable identifier, kebab-case, for records and problem documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MethodUnknown => "method-unknown",
            Self::MethodRefused => "method-refused",
            Self::AuthorityMissing => "authority-missing",
            Self::AuthorityUserinfo => "authority-userinfo",
            Self::AuthorityPort => "authority-port",
            Self::AuthorityHost => "authority-host",
            Self::AuthorityIpForm => "authority-ip-form",
            Self::AuthorityTrailingDot => "authority-trailing-dot",
            Self::HostMismatch => "host-mismatch",
            Self::PathForm => "path-form",
            Self::PathTooLong { .. } => "path-too-long",
            Self::PathEmptySegment => "path-empty-segment",
            Self::PathDotSegment => "path-dot-segment",
            Self::PathEncodedDot => "path-encoded-dot",
            Self::PathEncodedSeparator => "path-encoded-separator",
            Self::PathDoubleEncoding => "path-double-encoding",
            Self::PathControl => "path-control",
            Self::PathByte => "path-byte",
            Self::PathPercent => "path-percent",
            Self::PathNotUtf8 => "path-not-utf8",
            Self::PathParameter => "path-parameter",
            Self::QueryTooLong { .. } => "query-too-long",
            Self::QueryByte => "query-byte",
            Self::QueryPercent => "query-percent",
            Self::QueryNul => "query-nul",
            Self::TooManyFields { .. } => "too-many-fields",
            Self::FieldsTooLarge { .. } => "fields-too-large",
            Self::DuplicateField { .. } => "duplicate-field",
            Self::FieldNameAlias { .. } => "field-name-alias",
            Self::FieldValue { .. } => "field-value",
            Self::MethodOverride { .. } => "method-override",
            Self::UrlRewrite { .. } => "url-rewrite",
            Self::ConnectionListed { .. } => "connection-listed",
            Self::Upgrade => "upgrade",
            Self::ContentLength => "content-length",
            Self::TransferEncoding => "transfer-encoding",
            Self::Trailers => "trailers",
            Self::Expect => "expect",
            Self::ContentDigestForm => "content-digest-form",
            Self::ContentDigestMismatch => "content-digest-mismatch",
        }
    }

    /// HTTP status that answers the refusal.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::MethodUnknown | Self::MethodRefused => 405,
            Self::HostMismatch => 421,
            Self::PathTooLong { .. } | Self::QueryTooLong { .. } => 414,
            Self::Expect => 417,
            Self::TooManyFields { .. } | Self::FieldsTooLarge { .. } => 431,
            _ => 400,
        }
    }
}
