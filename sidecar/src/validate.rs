//! `writ-sidecar validate`: proves that the pod's traffic is captured.

use ring::rand::{SecureRandom, SystemRandom};
use writ_redirect::{Proof, RedirectError, validate};

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
    prove(&args.redirect)
}

pub(crate) fn prove(args: &RedirectArgs) -> Result<Proof, RedirectError> {
    let mut token = [0; 16];
    SystemRandom::new()
        .fill(&mut token)
        .map_err(|_| RedirectError::Io {
            what: "the kernel's random numbers".to_owned(),
            source: std::io::Error::other("not available"),
        })?;
    let proof = validate(&args.redirect()?, token)?;
    tracing::info!(v4 = ?proof.v4, v6 = ?proof.v6, "redirection proved");
    Ok(proof)
}
