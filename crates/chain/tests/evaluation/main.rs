//! Local evaluation against a real node: what `decide` says about proved state is what `eth_call` answers there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod drawn;
mod lies;
mod odd;
mod registries;

#[path = "../support/evaluation.rs"]
mod support;

use alloy_primitives::{B256, U256, keccak256};
use writ_policy::Effect;
use writ_policy::abi::{self, Rule};

fn agent(index: usize) -> B256 {
    keccak256(format!("agent {index}"))
}

fn capability(index: u8) -> B256 {
    B256::repeat_byte(0x40 + index)
}

fn effect(effect: abi::Effect) -> Effect {
    match effect {
        abi::Effect::Allow => Effect::Allow,
        abi::Effect::RequireApproval => Effect::RequireApproval,
        _ => Effect::Deny,
    }
}

fn open_rule() -> Rule {
    Rule {
        capability: capability(0),
        maxAmount: U256::MAX,
        classCeiling: 3,
        riskCeiling: 100,
        bindings: 7,
        approvalThreshold: U256::MAX,
        maxStateAge: 300,
        ttl: 60,
        ..Rule::default()
    }
}
