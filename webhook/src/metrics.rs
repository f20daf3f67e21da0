//! Metrics in the Prometheus text format.

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// What the webhook counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reviews, by path and outcome (`allowed`, `refused`, `invalid`).
    pub reviews: IntCounterVec,
    /// Refusals, by code.
    pub refusals: IntCounterVec,
    /// Seconds from the request's last byte to the answer, by path.
    pub seconds: HistogramVec,
    /// When the serving certificate ends, Unix seconds.
    pub certificate_expires: IntGauge,
    /// Failed attempts to keep the certificates.
    pub certificate_failures: IntCounter,
}

impl Metrics {
    /// Metrics with a registry of their own.
    ///
    /// # Errors
    /// When a name is taken twice.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("writ_webhook".to_owned()), None)?;
        let metrics = Self {
            reviews: IntCounterVec::new(
                Opts::new("reviews_total", "Admission reviews answered"),
                &["path", "outcome"],
            )?,
            refusals: IntCounterVec::new(
                Opts::new("refusals_total", "Refusals, by stable code"),
                &["code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("review_seconds", "Time to answer a review").buckets(vec![
                    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0,
                ]),
                &["path"],
            )?,
            certificate_expires: IntGauge::new(
                "certificate_expires_seconds",
                "When the serving certificate ends, Unix time; 0 when somebody else keeps it",
            )?,
            certificate_failures: IntCounter::new(
                "certificate_failures_total",
                "Failed attempts to renew or publish certificates",
            )?,
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.reviews.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.certificate_expires.clone()))?;
        registry.register(Box::new(metrics.certificate_failures.clone()))?;
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
