//! `writ-sidecar init`: captures the pod's traffic, and proves it before any other container runs.

use writ_redirect::{Ipv6, Proof, Redirect, RedirectError, apply};

/// Which traffic is captured, for whom. `init` and `validate` must be given the same.
#[derive(clap::Args, Clone, Debug)]
pub struct RedirectArgs {
    /// User id of the sidecar, the only one whose traffic is not captured.
    #[arg(long, env = "WRIT_SIDECAR_UID", value_name = "UID")]
    pub sidecar_uid: u32,
    /// TCP ports that the pod's containers may use among themselves, separated by commas.
    #[arg(long, env = "WRIT_LOCAL_PORTS", value_name = "PORT", value_delimiter = ',')]
    pub local_ports: Vec<u16>,
    /// Whether IPv6 is captured like IPv4, or dropped.
    #[arg(long, env = "WRIT_IPV6", value_enum, default_value_t = Ipv6Mode::On)]
    pub ipv6: Ipv6Mode,
}

/// Whether the pod uses IPv6.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Mode {
    /// Captured like IPv4.
    On,
    /// Every IPv6 packet is dropped.
    Off,
}

impl RedirectArgs {
    /// The checked configuration.
    ///
    /// # Errors
    /// When the uid or a port cannot be used.
    pub fn redirect(&self) -> Result<Redirect, RedirectError> {
        let ipv6 = match self.ipv6 {
            Ipv6Mode::On => Ipv6::On,
            Ipv6Mode::Off => Ipv6::Off,
        };
        Ok(Redirect::new(self.sidecar_uid)?
            .with_local_ports(self.local_ports.iter().copied())?
            .with_ipv6(ipv6))
    }
}

/// Arguments of `writ-sidecar init`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What to capture.
    #[command(flatten)]
    pub redirect: RedirectArgs,
}

/// Installs the rules in this pod's network namespace and proves them. It may be repeated as long
/// as the sidecar does not run.
///
/// # Errors
/// Each names the setting to change. The pod must not start then, which a failing init container
/// sees to.
pub fn run(args: &Args) -> Result<Proof, RedirectError> {
    let applied = apply(&args.redirect.redirect()?)?;
    tracing::info!(v4 = ?applied.v4, v6 = ?applied.v6, "redirection installed");
    crate::validate::prove(&args.redirect)
}
