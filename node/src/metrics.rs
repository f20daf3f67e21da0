//! Metrics in the Prometheus text format.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// What the node agent counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
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
}

impl Metrics {
    /// Metrics with a registry of their own.
    ///
    /// # Errors
    /// When a name is taken twice.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("writ_node".to_owned()), None)?;
        let metrics = Self {
            installs: IntCounterVec::new(
                Opts::new("installs_total", "Attempts to install the redirection"),
                &["outcome"],
            )?,
            refused: IntCounter::new(
                "refused_total",
                "Pods refused: not as the webhook makes them",
            )?,
            install_seconds: Histogram::with_opts(
                HistogramOpts::new("install_seconds", "Time until a redirection was installed")
                    .buckets(vec![0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0]),
            )?,
            waiting: IntGauge::new("waiting_pods", "Pods that wait for the redirection")?,
            watch_failures: IntCounter::new("watch_failures_total", "Failures of the watch")?,
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.installs.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.install_seconds.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.watch_failures.clone()))?;
        Ok(metrics)
    }

    /// All of them as text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to a vector cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
