//! Typed calls of the contracts, from the committed artifacts.

#![allow(
    missing_docs,
    clippy::too_many_arguments,
    reason = "generated; the contracts' NatSpec documents every item"
)]

use alloy::sol;

sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    AgentRegistry,
    "../../contracts/artifacts/AgentRegistry.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    PolicyRegistry,
    "../../contracts/artifacts/PolicyRegistry.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    RulePolicy,
    "../../contracts/artifacts/RulePolicy.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    ModelRegistry,
    "../../contracts/artifacts/ModelRegistry.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    SaeAnchor,
    "../../contracts/artifacts/SaeAnchor.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    ApprovalRegistry,
    "../../contracts/artifacts/ApprovalRegistry.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    Multisig,
    "../../contracts/artifacts/Multisig.json"
);
sol!(
    #[derive(Debug, PartialEq, Eq)]
    #[sol(rpc)]
    TimelockController,
    "../../contracts/artifacts/TimelockController.json"
);
