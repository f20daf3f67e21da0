//! What is refused: files that cannot be read, and settings that cannot be meant.

use std::path::{Path, PathBuf};

use super::{Config, seconds};

/// Largest configuration file read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Why a configuration was refused. Nothing of a refused file takes effect.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}; check the path and that the sidecar's uid may read it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_CONFIG_BYTES`].
    #[error("{0} is larger than 1 MiB; a configuration is a few kilobytes")]
    TooLarge(PathBuf),
    /// The file is not the YAML that the schema describes.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what, as the parser says it.
        reason: String,
    },
    /// The file parses, but contradicts itself.
    #[error("configuration refused: {0}")]
    Contradiction(String),
}

impl Config {
    /// Reads, parses and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the place and the fix.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path, MAX_CONFIG_BYTES)?;
        let config: Self = serde_saphyr::from_str(&text).map_err(|e| ConfigError::Malformed {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what parses but cannot be meant.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |reason: String| Err(ConfigError::Contradiction(reason));
        if self.chain.endpoints.is_empty() {
            return refuse("chain.endpoints is empty; name at least one JSON-RPC endpoint".into());
        }
        if self.chain.quorum == 0 || self.chain.quorum > self.chain.endpoints.len() {
            return refuse(format!(
                "chain.quorum is {}, but there are {} endpoints; it must be between 1 and that",
                self.chain.quorum,
                self.chain.endpoints.len()
            ));
        }
        if self.chain.staleness.fresh > self.chain.staleness.max {
            return refuse("chain.staleness.fresh is longer than chain.staleness.max".into());
        }
        self.state.check().map_err(ConfigError::Contradiction)?;
        if self.agent.is_some() != self.catalog.is_some() {
            return refuse("agent and catalog go together: name both, or neither".into());
        }
        if self.agent.is_none() && self.inbound.is_empty() {
            return refuse("neither agent nor inbound is set: there is nothing to do".into());
        }
        if self.callers.clock_skew > seconds::<60>() {
            return refuse("callers.clockSkew must be at most 60 s".into());
        }
        if !(30..=300).contains(&self.outbound.envelope_seconds) {
            return refuse("outbound.envelopeSeconds must be between 30 and 300".into());
        }
        let mut own = self.listen.ports();
        own.sort_unstable();
        if own.windows(2).any(|pair| pair.first() == pair.last()) {
            return refuse("two of listen's ports are the same".into());
        }
        for (index, inbound) in self.inbound.iter().enumerate() {
            if own.contains(&inbound.port) {
                return refuse(format!(
                    "inbound port {} is the sidecar's own",
                    inbound.port
                ));
            }
            if inbound.body_timeout.is_zero() {
                return refuse(format!(
                    "inbound port {}: bodyTimeout is zero; no body could arrive",
                    inbound.port
                ));
            }
            if inbound.authorities.is_empty() {
                return refuse(format!(
                    "inbound port {}: authorities is empty; name the host:port that callers use",
                    inbound.port
                ));
            }
            if self
                .inbound
                .iter()
                .skip(index + 1)
                .any(|other| other.port == inbound.port)
            {
                return refuse(format!("inbound port {} is named twice", inbound.port));
            }
        }
        Ok(())
    }
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// [`ConfigError`] when it cannot be read or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > limit {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
}
