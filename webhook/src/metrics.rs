//! Metrics in the Prometheus text format.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};
use writ_service::{Meters, ServiceError};

/// What the webhook counts.
#[derive(Debug)]
pub struct Metrics {
    meters: Meters,
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
    pub fn new() -> Result<Self, ServiceError> {
        let meters = Meters::new("writ_webhook")?;
        Ok(Self {
            reviews: meters.counters(
                "reviews_total",
                "Admission reviews answered",
                &["path", "outcome"],
            )?,
            refusals: meters.counters("refusals_total", "Refusals, by stable code", &["code"])?,
            seconds: meters.histograms(
                "review_seconds",
                "Time to answer a review",
                &["path"],
                vec![0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0],
            )?,
            certificate_expires: meters.gauge(
                "certificate_expires_seconds",
                "When the serving certificate ends, Unix time; 0 when somebody else keeps it",
            )?,
            certificate_failures: meters.counter(
                "certificate_failures_total",
                "Failed attempts to renew or publish certificates",
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
