//! Reload on change: a new configuration is taken whole, or not at all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use writ_catalog::Catalog;

use super::RunError;
use super::parts::Parts;
use crate::config::{Config, read_bounded};
use crate::outbound::Live;

/// Largest catalog file read, in bytes.
const MAX_CATALOG_BYTES: u64 = 4 << 20;

/// The catalogs that a configuration names.
pub(super) struct Files {
    /// This agent's own.
    pub catalog: Option<Arc<Catalog>>,
    /// Those of admitted callers.
    pub callers: Vec<Arc<Catalog>>,
}

impl Files {
    /// Reads every catalog that `config` names.
    pub(super) fn load(config: &Config) -> Result<Self, RunError> {
        let mut read = HashMap::new();
        let mut catalog = |path: &PathBuf| -> Result<Arc<Catalog>, RunError> {
            if let Some(known) = read.get(path) {
                return Ok(Arc::clone(known));
            }
            let text = read_bounded(path, MAX_CATALOG_BYTES)?;
            let catalog = Catalog::from_yaml(&text).map_err(|error| RunError::Catalog {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            let catalog = Arc::new(catalog);
            read.insert(path.clone(), Arc::clone(&catalog));
            Ok(catalog)
        };
        Ok(Self {
            catalog: config.catalog.as_ref().map(&mut catalog).transpose()?,
            callers: config
                .callers
                .catalogs
                .iter()
                .map(&mut catalog)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Reads the file again and puts it in force, as far as it can change while running.
///
/// # Errors
/// Nothing of a refused file takes effect; the text says why.
pub(super) fn reload(path: &Path, running: &Config, parts: &Parts) -> Result<Config, String> {
    let config = Config::load(path).map_err(|error| error.to_string())?;
    if fixed(&config) != fixed(running) {
        return Err(
            "identity, agent, chain, record, listen, revocation hold, interception and inbound ports take effect \
             at a restart; nothing of this file was taken"
                .to_owned(),
        );
    }
    let files = Files::load(&config).map_err(|error| error.to_string())?;
    parts.swap(&config, files)?;
    Ok(config)
}

/// What cannot change while running.
fn fixed(config: &Config) -> Config {
    let mut fixed = config.clone();
    fixed.mode = crate::config::Mode::default();
    fixed.state.relay = None;
    fixed.catalog = fixed.catalog.map(|_| PathBuf::new());
    fixed.callers = crate::config::Callers::default();
    fixed.outbound = crate::config::Outbound {
        intercept: fixed.outbound.intercept,
        authorities: fixed.outbound.authorities,
        max_connections: fixed.outbound.max_connections,
        max_idle: fixed.outbound.max_idle,
        connect_timeout: fixed.outbound.connect_timeout,
        envelope_seconds: fixed.outbound.envelope_seconds,
        ..crate::config::Outbound::default()
    };
    fixed
}

/// What outbound requests read.
pub(super) fn live(config: &Config, files: &Files) -> Result<Live, RunError> {
    let catalog = match &files.catalog {
        Some(catalog) => Arc::clone(catalog),
        None => Arc::new(nothing()?),
    };
    Ok(Live {
        catalog,
        settings: config.outbound.clone(),
    })
}

/// The catalog of a pod that only receives: it leads nowhere.
fn nothing() -> Result<Catalog, RunError> {
    Catalog::from_yaml("version: 1\nname: nothing\ndestinations: []\n").map_err(|error| {
        RunError::Catalog {
            path: PathBuf::from("(none)"),
            reason: error.to_string(),
        }
    })
}
