//! The contract that carries the rules, from the committed artifact.

use alloy_primitives::{Address, Bytes, hex};
use alloy_sol_types::SolValue;
use serde::Deserialize;

use crate::abi::Rule;

/// Longest init code that a chain accepts (EIP-3860), in bytes.
pub const MAX_INIT_CODE: usize = 49_152;

const ARTIFACT: &str = include_str!("../../../../contracts/artifacts/RulePolicy.json");

/// Why there is no init code.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The committed artifact is damaged.
    #[error(
        "contracts/artifacts/RulePolicy.json is damaged: run scripts/contracts-artifacts ({0})"
    )]
    Damaged(String),
    /// More rules than one contract can be created with.
    #[error(
        "{rules} rules make {bytes} bytes of init code, a chain accepts {MAX_INIT_CODE} (EIP-3860): use \"any\" for what \
         all agents share, or give groups of agents policies of their own"
    )]
    TooLarge {
        /// Number of rules, wildcards expanded.
        rules: usize,
        /// Length of the init code.
        bytes: usize,
    },
}

#[derive(Deserialize)]
struct Artifact {
    bytecode: String,
}

/// Init code of the `RulePolicy` with these rules. The same rules give the same bytes, so a CREATE2 address pins them.
///
/// # Errors
/// The artifact is damaged, or the rules do not fit into one contract.
pub fn init_code(rules: &[Rule], approvals: Address) -> Result<Bytes, ArtifactError> {
    let artifact: Artifact =
        serde_json::from_str(ARTIFACT).map_err(|e| ArtifactError::Damaged(e.to_string()))?;
    let mut code =
        hex::decode(&artifact.bytecode).map_err(|e| ArtifactError::Damaged(e.to_string()))?;
    code.extend((rules.to_vec(), approvals).abi_encode_params());
    if code.len() > MAX_INIT_CODE {
        return Err(ArtifactError::TooLarge {
            rules: rules.len(),
            bytes: code.len(),
        });
    }
    Ok(code.into())
}
