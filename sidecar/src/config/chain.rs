//! The chain, and how old its state may be.

use std::time::Duration;

use alloy_primitives::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{one, seconds};

/// The chain that holds the policy.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Chain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// JSON-RPC endpoints, each of another operator.
    #[schemars(with = "Vec<String>")]
    pub endpoints: Vec<Url>,
    /// How many of them must agree on a head.
    #[serde(default = "one")]
    pub quorum: usize,
    /// The agent registry's address.
    #[schemars(with = "String")]
    pub agent_registry: Address,
    /// The policy registry's address.
    #[schemars(with = "String")]
    pub policy_registry: Address,
    /// The anchor contract's address, named in every envelope.
    #[schemars(with = "String")]
    pub anchor: Address,
    /// The block tag that decisions read.
    #[serde(default)]
    pub head: HeadTag,
    /// How often endpoints are asked for a new head.
    #[serde(default = "seconds::<1>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub poll: Duration,
    /// Bounds of staleness.
    #[serde(default)]
    pub staleness: Staleness,
}

/// Block tag that decisions read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadTag {
    /// The newest agreed block.
    #[default]
    Latest,
    /// The newest block that the chain calls safe.
    Safe,
}

/// Bounds of staleness (C-25).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Staleness {
    /// State up to this old is fresh.
    #[serde(default = "seconds::<60>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub fresh: Duration,
    /// State up to this old is used where the rule allows; older is a refusal.
    #[serde(default = "seconds::<300>", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max: Duration,
}

impl Default for Staleness {
    fn default() -> Self {
        Self {
            fresh: seconds::<60>(),
            max: seconds::<300>(),
        }
    }
}
