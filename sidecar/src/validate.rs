//! `writ-sidecar validate`: proves that the pod's traffic is captured.

use ring::rand::{SecureRandom, SystemRandom};
use writ_redirect::{Proof, Redirect, RedirectError, observe, validate};

use crate::init::RedirectArgs;

/// Arguments of `writ-sidecar validate`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What should be captured.
    #[command(flatten)]
    pub redirect: RedirectArgs,
}

/// Proves the rules that are installed. To run before the sidecar, as another uid than its own.
///
/// # Errors
/// When something is not captured, with what was tried and what to change.
pub fn run(args: &Args) -> Result<Proof, RedirectError> {
    prove(&args.redirect.redirect()?)
}

/// Proves them by reading them back, and by packets.
pub(crate) fn prove(redirect: &Redirect) -> Result<Proof, RedirectError> {
    validate(redirect, token()?).map(told)
}

/// Proves them as far as a process without capabilities can.
pub(crate) fn prove_by_packets(redirect: &Redirect) -> Result<Proof, RedirectError> {
    observe(redirect, token()?).map(told)
}

fn told(proof: Proof) -> Proof {
    tracing::info!(v4 = ?proof.v4, v6 = ?proof.v6, "redirection proved");
    proof
}

fn token() -> Result<[u8; 16], RedirectError> {
    let mut token = [0; 16];
    let filled = SystemRandom::new().fill(&mut token);
    filled.map_err(|_| RedirectError::Io {
        what: "the kernel's random numbers".to_owned(),
        source: std::io::Error::other("not available"),
    })?;
    Ok(token)
}
