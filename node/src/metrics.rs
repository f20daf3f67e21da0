//! Metrics in the Prometheus text format.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use writ_service::{Meters, ServiceError};

/// What the node agent counts.
#[derive(Debug)]
pub struct Metrics {
    meters: Meters,
    /// Attempts to install, by outcome (`Installed`, or a cause).
    pub installs: IntCounterVec,
    /// Pods that were refused, because they are not as the webhook makes them.
    pub refused: IntCounter,
    /// Seconds from the first attempt for a container to its success.
    pub install_seconds: Histogram,
    /// Pods whose init container waits for the redirection.
    pub waiting: IntGauge,
    /// Failures of the watch.
    pub watch_failures: IntCounter,
    /// Requests of the kubelet's for volumes, by operation (`publish`, `unpublish`) and outcome (`Done`,
    /// `Refused`, or a cause).
    pub volumes: IntCounterVec,
}

impl Metrics {
    /// Metrics with a registry of their own.
    ///
    /// # Errors
    /// When a name is taken twice.
    pub fn new() -> Result<Self, ServiceError> {
        let meters = Meters::new("writ_node")?;
        Ok(Self {
            installs: meters.counters(
                "installs_total",
                "Attempts to install the redirection",
                &["outcome"],
            )?,
            refused: meters.counter(
                "refused_total",
                "Pods refused: not as the webhook makes them",
            )?,
            install_seconds: meters.histogram(
                "install_seconds",
                "Time until a redirection was installed",
                vec![0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0],
            )?,
            waiting: meters.gauge("waiting_pods", "Pods that wait for the redirection")?,
            watch_failures: meters.counter("watch_failures_total", "Failures of the watch")?,
            volumes: meters.counters(
                "volumes_total",
                "Requests of the kubelet's for volumes",
                &["operation", "outcome"],
            )?,
            meters,
        })
    }

    /// All of them as text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        self.meters.text()
    }
}
