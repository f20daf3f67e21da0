//! Writ's Kubernetes API: the custom resources of `writ.dev/v1alpha1`, and the names on which the
//! webhook, the operator, the node agent and the command line agree.
//!
//! ```text
//! Chain (cluster)            which chain, how it is read, which contracts
//! AgentPolicy (namespaced)   which pods, what they may do, what their sidecars are told
//! AgentRevocation (cluster)  which agent is stopped, everywhere, for good
//! ```
//!
//! The definitions in `manifests/crds` are generated from these types by `writ-crds`.

#![forbid(unsafe_code)]

mod chain;
pub mod conditions;
mod crds;
mod injected;
mod names;
mod policy;
mod revocation;
mod schema;

pub use chain::{
    Chain, ChainSpec, ChainStatus, Contracts, EndpointStatus, Governance, Head, Keys,
    WitnessMember, Witnesses,
};
pub use crds::{GROUP, VERSION, crds, to_yaml};
pub use injected::{
    CONFIG_VOLUME, FIRST_UID, INIT, INIT_BY_NODE, INIT_UID, INJECTED, INJECTED_VERSION, LAST_UID,
    NODE_DRIVER, REDIRECT, REDIRECT_BY_NODE, SIDECAR, bare_capability, drawn_uid, is_addable,
    is_reserved,
};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
pub use names::{
    INJECT, MANAGED_BY, OPERATOR, OPT_OUT, POLICY, config_map_name, namespace_and_account,
    spiffe_id,
};
pub use policy::{
    Agent, AgentPolicy, AgentPolicySpec, AgentPolicyStatus, CallerPolicy, Callers, InForce,
    Inbound, InboundProtocol, Mode, Model, PodCount, PolicyRef, ProposedPeer, Queued, Record,
    Staleness, Tls, Transaction,
};
pub use revocation::{
    AgentRevocation, AgentRevocationSpec, AgentRevocationStatus, Enforcement, Phase,
};
