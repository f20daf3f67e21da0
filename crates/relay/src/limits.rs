//! What either side may send or keep. Beyond it the connection ends, or the answer is an error.

use std::time::Duration;

/// Largest message that a relay takes, in bytes: a full warm set has some 300 KB.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Largest message that a sidecar takes, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 8 << 20;
/// Bytes of proofs after which a relay leaves the rest of a head's accounts to be asked for. A stream keeps a buffer as large
/// as the largest message that it ever sent, and there are thousands.
pub const STATE_BYTES: usize = 32 << 10;
/// Bytes of proofs after which slots are left to be asked for, or for the next head: accounts come with every head, slots once
/// for each storage root.
pub const SLOTS_BYTES: usize = 8 << 10;
/// Largest message that a relay takes from a witness, in bytes.
pub const MAX_WITNESS_BYTES: usize = 256 << 10;
/// Most accounts in one warm set.
pub const MAX_WARM_ACCOUNTS: usize = 256;
/// Most slots in one warm set, all accounts together.
pub const MAX_WARM_SLOTS: usize = 8192;
/// Most signatures that come with one head.
pub const MAX_SIGNATURES: usize = 16;
/// Most witness certificates kept.
pub const MAX_CERTIFICATES: usize = 64;
/// Longest id of a notice, in bytes.
pub const MAX_NOTICE_ID: usize = 128;
/// Longest SPIFFE ID, in bytes.
pub const MAX_SPIFFE_ID: usize = 2048;
/// Most notices that a relay has in force, and a sidecar keeps.
pub const MAX_NOTICES: usize = 1024;
/// Most kinds of actions in one report.
pub const MAX_SEEN: usize = 256;
/// Longest text in a report, in bytes.
pub const MAX_SEEN_TEXT: usize = 256;
/// Shortest time between two reports on one connection.
pub const BETWEEN_REPORTS: Duration = Duration::from_secs(1);
/// Reports that wait until they are kept.
pub const MAX_REPORTS: usize = 4096;
/// How long a report may take to be kept.
pub const KEPT: Duration = Duration::from_secs(60);
/// Messages waiting for one sidecar.
pub const QUEUE: usize = 4;
/// A sidecar that takes nothing for this long is dropped.
pub const SLOW: Duration = Duration::from_secs(10);
/// Longest a connection or one request may take.
pub const REQUEST: Duration = Duration::from_secs(5);
/// Reads under way for one connection.
pub const READS_PER_CONNECTION: usize = 32;
/// How often an idle connection is tried, and how long that may take.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// See [`KEEP_ALIVE`].
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
