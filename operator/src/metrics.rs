//! Metrics in the Prometheus text format.

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// What the operator counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
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
    pub fn new() -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let count = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let registry = Registry::new_custom(Some("writ_operator".to_owned()), None)?;
        let metrics = Self {
            reconciles: count(
                "reconciles_total",
                "Reconciliations",
                &["controller", "outcome"],
            )?,
            reconcile_seconds: HistogramVec::new(
                HistogramOpts::new("reconcile_seconds", "Time of a reconciliation")
                    .buckets(vec![0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0]),
                &["controller"],
            )?,
            leader: IntGauge::new("leader", "1 while this process is the leader")?,
            chain_block: gauge("chain_block", "Newest block", &["chain"])?,
            chain_ready: gauge("chain_ready", "1 while the chain is ready", &["chain"])?,
            policy_in_force: gauge(
                "policy_in_force",
                "1 while the chain decides as the AgentPolicy says",
                &["namespace", "policy"],
            )?,
            uncovered_pods: gauge(
                "uncovered_pods",
                "Pods that an AgentPolicy selects and that have no sidecar: not protected",
                &["namespace", "policy"],
            )?,
            unprotected_pods: gauge(
                "unprotected_pods",
                "Opted-in pods without a sidecar: not protected",
                &["namespace"],
            )?,
            transactions: count("transactions_total", "Transactions", &["what", "outcome"])?,
            revocations: gauge("revocations", "AgentRevocations", &["phase"])?,
            relay: gauge(
                "relay",
                "Numbers of a relay or witness: head, sidecars, accounts, slots, reads, slow, notices",
                &["chain", "what"],
            )?,
            signed_at: IntGauge::new(
                "signed_at_seconds",
                "When the newest head was signed by enough witnesses",
            )?,
            registry,
        };
        let registry = &metrics.registry;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.chain_block.clone()))?;
        registry.register(Box::new(metrics.chain_ready.clone()))?;
        registry.register(Box::new(metrics.policy_in_force.clone()))?;
        registry.register(Box::new(metrics.uncovered_pods.clone()))?;
        registry.register(Box::new(metrics.unprotected_pods.clone()))?;
        registry.register(Box::new(metrics.transactions.clone()))?;
        registry.register(Box::new(metrics.revocations.clone()))?;
        registry.register(Box::new(metrics.relay.clone()))?;
        registry.register(Box::new(metrics.signed_at.clone()))?;
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
