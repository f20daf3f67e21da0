//! The command line.

use std::net::SocketAddr;

use writ_service::Logging;

use crate::spec::Repositories;

/// Node agent of Writ: installs the redirection in agents' pods on its node, where the webhook runs
/// with --redirect node.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    version,
    after_help = "Example:
  writ-node --node worker-1 --init-image registry/writ-init:0.1.0 --sidecar-image registry/writ-sidecar:0.1.0

It needs the node's process namespace (hostPID), root with NET_ADMIN, NET_RAW, SYS_ADMIN and SYS_PTRACE,
and the right to watch pods and to create events. Over HTTP on --admin-listen: /healthz, /readyz, /metrics."
)]
pub struct Args {
    /// Name of the node that this runs on.
    #[arg(long, env = "WRIT_NODE_NAME", value_parser = name, value_name = "NAME")]
    pub node: String,
    /// Image of pods' init container, as the webhook's flag says; its tag and digest do not matter.
    #[arg(
        long,
        env = "WRIT_INIT_IMAGE",
        default_value = "localhost/writ/writ-init",
        value_name = "IMAGE"
    )]
    pub init_image: String,
    /// Image of pods' sidecar.
    #[arg(
        long,
        env = "WRIT_SIDECAR_IMAGE",
        default_value = "localhost/writ/writ-sidecar",
        value_name = "IMAGE"
    )]
    pub sidecar_image: String,
    /// Most pods that are worked on at one time.
    #[arg(long, env = "WRIT_AT_ONCE", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "NUMBER")]
    pub at_once: u16,
    /// Where health, readiness and metrics are, over HTTP.
    #[arg(
        long,
        env = "WRIT_ADMIN_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// Logs.
    #[command(flatten)]
    pub logging: Logging,
}

impl Args {
    /// Where our images come from.
    #[must_use]
    pub fn repositories(&self) -> Repositories {
        Repositories::of(&self.init_image, &self.sidecar_image)
    }
}

/// It becomes part of a field selector.
fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let good = !text.is_empty() && text.len() <= 253 && text.bytes().all(plain);
    good.then(|| text.to_owned())
        .ok_or_else(|| "a node's name has lower-case letters, digits, hyphens and dots".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser as _;

    #[test]
    fn a_node_must_be_named_by_a_name() {
        let args = |line: &str| {
            let words = std::iter::once("writ-node").chain(line.split_whitespace());
            Args::try_parse_from(words)
        };
        assert_eq!(
            args("--node worker-1.example").unwrap().node,
            "worker-1.example"
        );
        for line in [
            "",
            "--node a,metadata.name=b",
            "--node A",
            "--node x --at-once 0",
        ] {
            assert!(args(line).is_err(), "{line}");
        }
    }
}
