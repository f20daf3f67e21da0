//! The warm set: every piece of state that a set of actions leads to, found by dry-running their evaluation.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{Action, EvalError, ProfileRefusal, Registries, Snapshot, StateKey, decide};

/// What dry runs found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warm {
    /// Everything that was read, over all actions.
    pub touched: BTreeSet<StateKey>,
    /// What is still to be fetched and proved; dry-run again afterwards. Empty: the warm set is complete.
    pub missing: BTreeSet<StateKey>,
    /// Actions, by index, whose evaluation the EVM profile refuses. They will be refused when they happen, too.
    pub refused: Vec<(usize, ProfileRefusal)>,
}

/// Dry-runs all actions once on a snapshot.
///
/// # Errors
/// [`EvalError::WrongChain`].
pub fn dry_run(
    snapshot: &Snapshot,
    registries: &Registries,
    actions: &[Action],
) -> Result<Warm, EvalError> {
    let mut warm = Warm::default();
    for (index, action) in actions.iter().enumerate() {
        match decide(snapshot, registries, action) {
            Ok(decision) => warm.touched.extend(decision.touched),
            Err(EvalError::Missing(keys)) => warm.missing.extend(keys),
            Err(EvalError::Refused(refusal)) => warm.refused.push((index, refusal)),
            Err(error @ EvalError::WrongChain { .. }) => return Err(error),
        }
    }
    Ok(warm)
}

/// Why [`warm_keys`] stopped.
#[derive(Debug, thiserror::Error)]
pub enum WarmError<E> {
    /// Snapshot and registries do not belong together.
    #[error(transparent)]
    Evaluation(#[from] EvalError),
    /// The state could not be fetched.
    #[error("state for the warm set could not be fetched: {0}")]
    Fetch(E),
    /// State was fetched again and again without completing.
    #[error(
        "warm set is not complete after {0} rounds of fetching; a policy reads state that depends on what it read, without end"
    )]
    Endless(usize),
}

/// Repeats [`dry_run`], with `fetch` proving what is missing and returning the larger snapshot, until nothing is.
///
/// # Errors
/// [`WarmError::Endless`] after `rounds` rounds; otherwise what `fetch` or the evaluation reports.
pub fn warm_keys<E>(
    snapshot: Arc<Snapshot>,
    registries: &Registries,
    actions: &[Action],
    rounds: usize,
    mut fetch: impl FnMut(&Snapshot, &BTreeSet<StateKey>) -> Result<Arc<Snapshot>, E>,
) -> Result<(Arc<Snapshot>, Warm), WarmError<E>> {
    let mut current = snapshot;
    for _ in 0..rounds {
        let warm = dry_run(&current, registries, actions)?;
        if warm.missing.is_empty() {
            return Ok((current, warm));
        }
        current = fetch(&current, &warm.missing).map_err(WarmError::Fetch)?;
    }
    Err(WarmError::Endless(rounds))
}
