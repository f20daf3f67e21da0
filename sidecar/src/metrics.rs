//! What the sidecar counts, in the Prometheus text format.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use writ_service::{Meters, ServiceError};

/// Most distinct reason codes kept as label values; a policy contract may answer anything.
const MAX_CODES: usize = 128;

/// A stage of the path of one action (design, sections 3 and 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Canonical request and catalog.
    Classify,
    /// Policy evaluation, budgets included, cold slots excluded.
    Evaluate,
    /// Connection to the target.
    Connect,
    /// Signing the envelope.
    Sign,
    /// Durable record.
    Append,
    /// Verification of an arriving envelope, replay included.
    Verify,
    /// From the request's head to the first byte released.
    Inline,
}

impl Stage {
    const fn label(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Evaluate => "evaluate",
            Self::Connect => "connect",
            Self::Sign => "sign",
            Self::Append => "append",
            Self::Verify => "verify",
            Self::Inline => "inline",
        }
    }
}

/// All metrics of one sidecar.
pub struct Metrics {
    meters: Meters,
    actions: IntCounterVec,
    arrivals: IntCounterVec,
    stages: HistogramVec,
    connections: IntGaugeVec,
    codes: Mutex<HashSet<String>>,
    /// Height of the newest proved head.
    pub head: IntGauge,
    /// Age of the newest proved head, in seconds.
    pub state_age: IntGauge,
    /// 1 while a stream to the configured relay is open.
    pub relay_connected: IntGauge,
    /// Decisions that had to wait for a slot never seen before.
    pub cold_slots: IntCounter,
    /// Size of the record, in records.
    pub records: IntGauge,
    /// Seconds until the SVID expires.
    pub svid_expiry: IntGauge,
    /// 1 while denials are only observed.
    pub observing: IntGauge,
    /// Names that the DNS server refused.
    pub dns_refused: IntCounter,
    /// Configuration reloads refused.
    pub reload_refused: IntCounter,
    /// Requests for declared metrics that were handed to the application.
    pub scrapes: IntCounter,
}

impl Metrics {
    /// A fresh set on a registry of its own.
    ///
    /// # Errors
    /// When two metrics have one name, which is a mistake in this file.
    pub fn new() -> Result<Self, ServiceError> {
        let meters = Meters::new("writ")?;
        Ok(Self {
            head: meters.gauge("head_block", "Height of the newest proved head")?,
            state_age: meters.gauge("state_age_seconds", "Age of the newest proved head")?,
            relay_connected: meters.gauge(
                "relay_connected",
                "1 while a stream to the relay is open; 0 without one, and where none is configured",
            )?,
            cold_slots: meters.counter(
                "cold_slot_waits_total",
                "Decisions that waited for a slot never seen before",
            )?,
            records: meters.gauge("records", "Records in the log")?,
            svid_expiry: meters.gauge("svid_expiry_seconds", "Seconds until the SVID expires")?,
            observing: meters.gauge(
                "observing",
                "1 while denials are recorded and nothing is stopped",
            )?,
            dns_refused: meters.counter("dns_refused_total", "Names the DNS server refused")?,
            reload_refused: meters.counter(
                "reload_refused_total",
                "Configuration changes that were refused",
            )?,
            scrapes: meters.counter(
                "scrapes_total",
                "Requests for declared metrics handed to the application",
            )?,
            actions: meters.counters(
                "actions_total",
                "Actions decided, by effect and reason",
                &["kind", "effect", "code"],
            )?,
            arrivals: meters.counters(
                "arrivals_total",
                "Requests that reached the PEP, by verdict",
                &["verdict", "code"],
            )?,
            stages: meters.histograms(
                "stage_seconds",
                "Time spent in a stage of one action",
                &["stage"],
                prometheus::exponential_buckets(0.000_01, 2.0, 20)?,
            )?,
            connections: meters.gauges(
                "connections",
                "Open connections, by direction",
                &["direction"],
            )?,
            codes: Mutex::default(),
            meters,
        })
    }

    /// Counts one decided action.
    pub fn decided(&self, kind: &str, effect: &str, code: &str) {
        let code = self.bounded(code);
        self.actions.with_label_values(&[kind, effect, &code]).inc();
    }

    /// Counts one request that reached the PEP.
    pub fn arrived(&self, verdict: &str, code: &str) {
        let code = self.bounded(code);
        self.arrivals.with_label_values(&[verdict, &code]).inc();
    }

    /// Records how long a stage took.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.stages
            .with_label_values(&[stage.label()])
            .observe(took.as_secs_f64());
    }

    /// Counts a connection for as long as the guard lives.
    pub fn connection(&self, direction: &str) -> Open {
        let gauge = self.connections.with_label_values(&[direction]);
        gauge.inc();
        Open { gauge }
    }

    /// Everything, in the Prometheus text format.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        self.meters.text()
    }

    fn bounded(&self, code: &str) -> String {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.contains(code) {
            return code.to_owned();
        }
        if codes.len() >= MAX_CODES {
            return "other".to_owned();
        }
        codes.insert(code.to_owned());
        code.to_owned()
    }
}

/// Keeps a connection counted.
pub struct Open {
    gauge: IntGauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_from_a_contract_cannot_grow_the_metrics() {
        let metrics = Metrics::new().unwrap();
        for n in 0..10_000 {
            metrics.decided("http", "deny", &format!("made-up-{n}"));
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        let series = text
            .lines()
            .filter(|line| line.starts_with("writ_actions_total{"))
            .count();
        assert_eq!(series, MAX_CODES + 1);
    }

    #[test]
    fn a_connection_is_counted_while_it_lives() {
        let metrics = Metrics::new().unwrap();
        let open = metrics.connection("outbound");
        let text = || String::from_utf8(metrics.text()).unwrap();
        assert!(text().contains("writ_connections{direction=\"outbound\"} 1"));
        drop(open);
        assert!(text().contains("writ_connections{direction=\"outbound\"} 0"));
    }
}
