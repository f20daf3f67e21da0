//! The role `witness`: signs the heads that one endpoint serves.

use std::sync::Arc;
use std::time::Duration;

use writ_chain::{HeadTag, SystemClock};
use writ_relay::{Witness, WitnessSettings};
use writ_service::signalled;

use crate::Metrics;
use crate::args::Args;
use crate::relay::args::Head;
use crate::relay::{core, serve_admin, svid};
use crate::run::RunError;

/// How often metrics are read.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`].
pub async fn run(args: &Args) -> Result<(), RunError> {
    let (endpoint, chain_id) = args.relaying.watched().map_err(RunError::Flags)?;
    let head = match args.relaying.head {
        Head::Latest => HeadTag::Latest,
        Head::Safe => HeadTag::Safe,
    };
    let mut chain = core::reading(chain_id, vec![endpoint], head).map_err(RunError::Flags)?;
    chain.poll = args.relaying.poll;
    let metrics = Arc::new(Metrics::new()?);
    serve_admin(args, &metrics, Arc::default()).await?;
    let source = svid(args).await?;
    let spiffe_id = source.svid().spiffe_id().to_owned();
    let settings = WitnessSettings {
        chain,
        listen: args.relaying.witness_listen,
        relays: args.relaying.relays(&args.trust_domain, &args.namespace),
    };
    let witness = Witness::start(settings, source, Arc::new(SystemClock::new())).await;
    let mut witness = witness.map_err(|error| RunError::Relay(error.to_string()))?;
    tracing::info!(spiffe_id, chain_id, "witness started");
    tokio::select! {
        () = measure(&mut witness, &metrics, chain_id) => Err(RunError::Ended("witness")),
        ended = signalled() => ended.map_err(RunError::from),
    }
}

/// Keeps the metrics until a part of the witness ends.
async fn measure(witness: &mut Witness, metrics: &Metrics, chain_id: u64) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    loop {
        if let Some((block, at)) = witness.signed() {
            let labels = [chain_id.to_string(), "head".to_owned()];
            metrics
                .relay
                .with_label_values(&labels.each_ref().map(String::as_str))
                .set(number(block));
            metrics.signed_at.set(number(at));
        }
        tokio::select! {
            () = witness.ended() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
