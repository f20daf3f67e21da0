//! `writ-sidecar init`: captures the pod's traffic, and proves it before any other container runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use writ_redirect::{
    Ipv6, Ports, Proof, Redirect, RedirectError, apply, await_announcement, variables,
};

use crate::{names, validate};

/// Which traffic is captured, for whom. `init` and `validate` must be given the same.
#[derive(clap::Args, Clone, Debug)]
pub struct RedirectArgs {
    /// User id of the sidecar, the only one whose traffic is not captured.
    #[arg(long, env = variables::SIDECAR_UID, value_name = "UID")]
    pub sidecar_uid: u32,
    /// TCP ports that the pod's containers may use among themselves, separated by commas.
    #[arg(
        long,
        env = variables::LOCAL_PORTS,
        value_name = "PORT",
        value_delimiter = ','
    )]
    pub local_ports: Vec<u16>,
    /// Whether IPv6 is captured like IPv4, or dropped.
    #[arg(long, env = variables::IPV6, value_enum, default_value_t = Ipv6Mode::On)]
    pub ipv6: Ipv6Mode,
    /// The sidecar's ports, if other than the usual ones.
    #[command(flatten)]
    pub ports: PortArgs,
}

/// The ports on which the sidecar listens, as in its configuration.
#[derive(clap::Args, Clone, Debug)]
pub struct PortArgs {
    /// Captured outbound connections.
    #[arg(long, env = variables::OUTBOUND_PORT, value_name = "PORT", default_value_t = Ports::default().outbound)]
    pub outbound_port: u16,
    /// Captured inbound connections.
    #[arg(long, env = variables::INBOUND_PORT, value_name = "PORT", default_value_t = Ports::default().inbound)]
    pub inbound_port: u16,
    /// Health, readiness and metrics.
    #[arg(long, env = variables::ADMIN_PORT, value_name = "PORT", default_value_t = Ports::default().status)]
    pub admin_port: u16,
    /// The local API.
    #[arg(long, env = variables::API_PORT, value_name = "PORT", default_value_t = Ports::default().local_api)]
    pub api_port: u16,
    /// DNS.
    #[arg(long, env = variables::DNS_PORT, value_name = "PORT", default_value_t = Ports::default().dns)]
    pub dns_port: u16,
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
        let ports = Ports {
            outbound: self.ports.outbound_port,
            inbound: self.ports.inbound_port,
            status: self.ports.admin_port,
            local_api: self.ports.api_port,
            dns: self.ports.dns_port,
        };
        Ok(Redirect::new(self.sidecar_uid)?
            .with_ports(ports)?
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
    /// Folder for the sidecar's own resolv.conf and hosts, which no other container can write.
    #[arg(long, env = variables::NAMES, value_name = "FOLDER")]
    pub names: Option<PathBuf>,
    /// Who installs the rules.
    #[arg(long, value_enum, default_value_t = By::Init)]
    pub by: By,
    /// With `--by node`: how many seconds to wait for the node agent.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "SECONDS")]
    pub wait: u64,
}

/// Who installs the rules.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// This process, which needs NET_ADMIN and NET_RAW.
    Init,
    /// The node agent, writ-node. This process needs no capability: it waits until the agent says that
    /// it installed these very rules, and then proves by packets that they capture.
    Node,
}

/// Why the pod must not start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Its traffic is not captured.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// The sidecar would resolve names as other containers say.
    #[error("{path}: {source}; check that the volume of --names is mounted and has room", path = path.display())]
    Names {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Installs the rules in this pod's network namespace, or has the node agent do it, and proves them. It may be repeated as long
/// as the sidecar does not run.
///
/// # Errors
/// Each names the setting to change. The pod must not start then, which a failing init container
/// sees to.
pub fn run(args: &Args) -> Result<Proof, InitError> {
    if let Some(folder) = &args.names {
        names::keep(folder, Path::new("/etc/resolv.conf")).map_err(|source| InitError::Names {
            path: folder.clone(),
            source,
        })?;
    }
    let redirect = args.redirect.redirect()?;
    match args.by {
        By::Init => {
            let applied = apply(&redirect)?;
            tracing::info!(v4 = ?applied.v4, v6 = ?applied.v6, "redirection installed");
            Ok(validate::prove(&redirect)?)
        }
        By::Node => {
            tracing::info!(seconds = args.wait, "waiting for the node agent");
            await_announcement(&redirect, Duration::from_secs(args.wait))?;
            Ok(validate::prove_by_packets(&redirect)?)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: RedirectArgs,
    }

    fn parsed(line: &str) -> Result<Redirect, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        cli.args.redirect().map_err(|e| e.to_string())
    }

    #[test]
    fn the_flags_say_what_is_captured() {
        let redirect =
            parsed("init --sidecar-uid 40000 --local-ports 6379,9090 --ipv6 off --dns-port 15999")
                .unwrap();
        let ports = Ports {
            dns: 15999,
            ..Ports::default()
        };
        let expected = Redirect::new(40000).and_then(|r| r.with_ports(ports));
        let expected = expected
            .and_then(|r| r.with_local_ports([6379, 9090]))
            .unwrap()
            .with_ipv6(Ipv6::Off);
        assert_eq!(redirect, expected);
    }

    #[test]
    fn a_missing_or_impossible_value_is_refused() {
        for line in [
            "init",
            "init --sidecar-uid 0",
            "init --sidecar-uid 40000 --local-ports 53",
            "init --sidecar-uid 40000 --local-ports 15801",
            "init --sidecar-uid 40000 --ipv6 maybe",
            "init --sidecar-uid 40000 --dns-port 15801",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
