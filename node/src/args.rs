//! The command line.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use writ_service::Logging;

use crate::csi::Folders;
use crate::spec::Repositories;

/// Node agent of Writ: installs the redirection in agents' pods on its node, where the webhook runs
/// with --redirect node, and brings SPIRE's socket to pods that may mount no folder of the node.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    version,
    after_help = "Example:
  writ-node --node worker-1 --init-image registry/writ-init:0.1.0 --sidecar-image registry/writ-sidecar:0.1.0

It needs the node's process namespace (hostPID) and root with SYS_ADMIN and SYS_PTRACE; to redirect, NET_ADMIN
and NET_RAW too, and the right to watch pods and to create events; for SPIRE's socket, SYS_CHROOT and the three
folders as volumes. Over HTTP on --admin-listen: /healthz, /readyz, /metrics."
)]
pub struct Args {
    /// Name of the node that this runs on.
    #[arg(long, env = "WRIT_NODE_NAME", value_parser = name, value_name = "NAME")]
    pub node: String,
    /// Whether the redirection is installed, in pods that have the webhook's annotation for it.
    #[arg(
        long,
        env = "WRIT_REDIRECT",
        value_enum,
        default_value_t = Switch::On,
        value_name = "SWITCH"
    )]
    pub redirect: Switch,
    /// Serve the CSI driver workload-api.writ.dev: this folder, with SPIRE's socket, is mounted for pods that
    /// have its volume. It must be a volume of this program's pod.
    #[arg(long, env = "WRIT_WORKLOAD_API", value_parser = folder, value_name = "FOLDER")]
    pub workload_api: Option<PathBuf>,
    /// The kubelet's own folder on the node (its --root-dir).
    #[arg(long, env = "WRIT_KUBELET", default_value = "/var/lib/kubelet", value_parser = folder, value_name = "FOLDER")]
    pub kubelet: PathBuf,
    /// Its plugins/workload-api.writ.dev, as a volume of this program's pod.
    #[arg(long, env = "WRIT_PLUGIN", default_value = "/csi/plugin", value_parser = folder, value_name = "FOLDER")]
    pub plugin: PathBuf,
    /// Its plugins_registry, as a volume of this program's pod.
    #[arg(long, env = "WRIT_REGISTRATION", default_value = "/csi/registration", value_parser = folder, value_name = "FOLDER")]
    pub registration: PathBuf,
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

/// Whether to do something.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Do.
    On,
    /// Do not.
    Off,
}

impl Args {
    /// Where our images come from.
    #[must_use]
    pub fn repositories(&self) -> Repositories {
        Repositories::of(&self.init_image, &self.sidecar_image)
    }

    /// Where the driver's sockets are.
    #[must_use]
    pub fn folders(&self) -> Folders {
        Folders {
            kubelet: self.kubelet.clone(),
            plugin: self.plugin.clone(),
            registration: self.registration.clone(),
        }
    }

    /// The capabilities that this program needs, by name and bit of the sets (capabilities(7)).
    #[must_use]
    pub fn capabilities(&self) -> Vec<(&'static str, u32)> {
        let mut all = vec![("SYS_PTRACE", 19), ("SYS_ADMIN", 21)];
        if self.redirect == Switch::On {
            all.extend([("NET_ADMIN", 12), ("NET_RAW", 13)]);
        }
        if self.workload_api.is_some() {
            all.push(("SYS_CHROOT", 18));
        }
        all
    }
}

/// It becomes part of a field selector.
fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let good = !text.is_empty() && text.len() <= 253 && text.bytes().all(plain);
    good.then(|| text.to_owned())
        .ok_or_else(|| "a node's name has lower-case letters, digits, hyphens and dots".to_owned())
}

/// Absolute, and in the one form in which paths are compared.
fn folder(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let same = path.components().collect::<PathBuf>().as_os_str() == text;
    let good = path.is_absolute() && plain && same && path.parent().is_some();
    good.then(|| path.to_owned()).ok_or_else(|| {
        "a folder is an absolute path, without .., // and a slash at its end".to_owned()
    })
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

    #[test]
    fn folders_are_absolute_and_written_in_one_way() {
        assert_eq!(
            folder("/var/lib/kubelet").unwrap(),
            Path::new("/var/lib/kubelet")
        );
        for text in [
            "", "/", ".", "kubelet", "/a/", "/a//b", "/a/../b", "/a/./b", "//a",
        ] {
            assert!(folder(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_done_needs_no_capability() {
        let names = |line: &str| {
            let args = Args::try_parse_from(line.split_whitespace()).unwrap();
            let mut names: Vec<&str> = args
                .capabilities()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(
            names("writ-node --node a"),
            "NET_ADMIN NET_RAW SYS_ADMIN SYS_PTRACE"
        );
        assert_eq!(
            names("writ-node --node a --redirect off --workload-api /csi/workload-api"),
            "SYS_ADMIN SYS_CHROOT SYS_PTRACE"
        );
    }

    #[test]
    fn the_flags_tell_of_the_driver_by_its_name() {
        use crate::csi::DRIVER;
        use clap::CommandFactory as _;
        let help = Args::command().render_long_help().to_string();
        assert_eq!(help.matches(DRIVER).count(), 2, "{help}");
    }
}
