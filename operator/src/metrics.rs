//! Metrics in the Prometheus text format.

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};
use writ_service::{Meters, ServiceError};

/// What the operator counts.
#[derive(Debug)]
pub struct Metrics {
    meters: Meters,
    /// Reconciliations, by controller and outcome (`Done`, or a cause).
    pub reconciles: IntCounterVec,
    /// Seconds of a reconciliation, by controller.
    pub reconcile_seconds: HistogramVec,
    /// Whether this process is the leader.
    pub leader: IntGauge,
    /// Newest block, by chain.
    pub chain_block: IntGaugeVec,
    /// Whether a chain is ready.
    pub chain_ready: IntGaugeVec,
    /// AgentPolicies in force (1) or not (0).
    pub policy_in_force: IntGaugeVec,
    /// Selected pods without a sidecar, by policy: not protected.
    pub uncovered_pods: IntGaugeVec,
    /// Opted-in pods that no AgentPolicy selects or that have no sidecar, by namespace.
    pub unprotected_pods: IntGaugeVec,
    /// Transactions, by what they do and outcome.
    pub transactions: IntCounterVec,
    /// Revocations, by phase.
    pub revocations: IntGaugeVec,
    /// A relay's or witness's numbers, by chain id and what they count.
    pub relay: IntGaugeVec,
    /// When the newest head was signed, unix seconds.
    pub signed_at: IntGauge,
}

impl Metrics {
    /// Metrics with a registry of their own.
    ///
    /// # Errors
    /// When a name is taken twice.
    pub fn new() -> Result<Self, ServiceError> {
        let meters = Meters::new("writ_operator")?;
        Ok(Self {
            reconciles: meters.counters(
                "reconciles_total",
                "Reconciliations",
                &["controller", "outcome"],
            )?,
            reconcile_seconds: meters.histograms(
                "reconcile_seconds",
                "Time of a reconciliation",
                &["controller"],
                vec![0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0],
            )?,
            leader: meters.gauge("leader", "1 while this process is the leader")?,
            chain_block: meters.gauges("chain_block", "Newest block", &["chain"])?,
            chain_ready: meters.gauges("chain_ready", "1 while the chain is ready", &["chain"])?,
            policy_in_force: meters.gauges(
                "policy_in_force",
                "1 while the chain decides as the AgentPolicy says",
                &["namespace", "policy"],
            )?,
            uncovered_pods: meters.gauges(
                "uncovered_pods",
                "Pods that an AgentPolicy selects and that have no sidecar: not protected",
                &["namespace", "policy"],
            )?,
            unprotected_pods: meters.gauges(
                "unprotected_pods",
                "Opted-in pods without a sidecar: not protected",
                &["namespace"],
            )?,
            transactions: meters.counters(
                "transactions_total",
                "Transactions",
                &["what", "outcome"],
            )?,
            revocations: meters.gauges("revocations", "AgentRevocations", &["phase"])?,
            relay: meters.gauges(
                "relay",
                "Numbers of a relay or witness: head, sidecars, accounts, slots, reads, slow, notices",
                &["chain", "what"],
            )?,
            signed_at: meters.gauge(
                "signed_at_seconds",
                "When the newest head was signed by enough witnesses",
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
