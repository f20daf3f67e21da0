//! The node's side of a CSI driver of ephemeral volumes: SPIRE's socket for pods that may mount no folder
//! of the node, as `restricted` has it.
//!
//! ```text
//! kubelet ─▶ registration  finds the driver by a socket in its folder, and is told where the other one is
//!         ─▶ service       publish and unpublish
//!              request     is it such a volume, read-only, of the pod whose folder it names? No I/O
//!              target      only <kubelet>/pods/UID/volumes/kubernetes.io~csi/NAME/mount. No I/O
//!              mount       the folder with SPIRE's socket, read-only, in the node's mount namespace
//! ```
//!
//! Which pods get an identity at the socket is SPIRE's affair, which looks at the container that asks;
//! the webhook refuses agents' own containers the volume.

mod mount;
mod registration;
mod request;
mod serve;
mod service;
mod socket;
mod target;

pub use mount::{InNode, Mount, Published};
pub use registration::registration_file;
pub use request::{publication, unpublication};
pub use serve::{Folders, Plugin, serve};
pub use target::Target;

/// Messages, clients and servers of the Container Storage Interface.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// Messages, client and server of the kubelet's registration of drivers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// The driver's name, in pods' volumes and in the CSIDriver of the chart.
pub use writ_api::NODE_DRIVER as DRIVER;

/// What is asked for is none of the driver's volumes, or names a place that is not a volume's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct Refused {
    /// Where in the request.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

fn require(holds: bool, field: &'static str, reason: &'static str) -> Result<(), Refused> {
    holds.then_some(()).ok_or(Refused { field, reason })
}
