//! Human approvals: EIP-712 signatures of k approvers, submitted by anyone.

use alloy::primitives::{Address, B256, Bytes};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, eip712_domain};

use super::{Progress, Session, TxError};
use crate::bindings::ApprovalRegistry;
use crate::deploy::Manifest;

fn domain(manifest: &Manifest) -> Result<Eip712Domain, TxError> {
    let verifying_contract: Address = manifest.address("ApprovalRegistry")?;
    Ok(eip712_domain! {
        name: "Writ ApprovalRegistry",
        version: "1",
        chain_id: manifest.chain_id,
        verifying_contract: verifying_contract,
    })
}

/// The id of an approval: its EIP-712 digest, computed here and not asked of an endpoint.
///
/// # Errors
/// The manifest names no approval registry.
pub fn approval_id(
    manifest: &Manifest,
    approval: &ApprovalRegistry::Approval,
) -> Result<B256, TxError> {
    Ok(approval.eip712_signing_hash(&domain(manifest)?))
}

/// Signs an approval as one approver. 65 bytes.
///
/// # Errors
/// The manifest names no approval registry, or the key cannot sign.
pub fn sign_approval(
    manifest: &Manifest,
    approval: &ApprovalRegistry::Approval,
    key: &PrivateKeySigner,
) -> Result<Bytes, TxError> {
    let id = approval_id(manifest, approval)?;
    let signature = key
        .sign_hash_sync(&id)
        .map_err(|e| TxError::Client(e.to_string()))?;
    Ok(signature.as_bytes().to_vec().into())
}

/// Opens an approval with signatures ordered by their signers' addresses. Anyone may send it.
///
/// # Errors
/// The contract refuses, or the endpoint fails.
pub async fn submit_approval(
    session: &Session,
    manifest: &Manifest,
    approval: &ApprovalRegistry::Approval,
    signatures: Vec<Bytes>,
) -> Result<Progress, TxError> {
    let call = ApprovalRegistry::approveCall {
        a: approval.clone(),
        signatures,
    };
    let data = call.abi_encode().into();
    let receipt = session
        .send(
            "opening the approval",
            manifest.address("ApprovalRegistry")?,
            data,
        )
        .await?;
    Ok(Progress::Executed {
        transaction: receipt.transaction_hash,
        block: receipt.block_number.unwrap_or_default(),
    })
}
