//! Salted hashes of names: only these stand on chain, so that a name cannot be guessed from public state.

use alloy_primitives::{Keccak256, keccak256};

/// keccak256(salt, kind, 0x00, name). Kinds are "capability", "resource", "target", "session" and "principal".
///
/// The zero byte keeps kinds apart: no kind contains one.
pub fn name_hash(salt: &[u8; 16], kind: &str, name: &str) -> [u8; 32] {
    let mut hasher = Keccak256::new();
    hasher.update(salt);
    hasher.update(kind.as_bytes());
    hasher.update([0]);
    hasher.update(name.as_bytes());
    hasher.finalize().0
}

/// The key of an agent in `AgentRegistry`: keccak256(128-bit salt of this agent, SPIFFE ID).
pub fn agent_key(salt: &[u8; 16], spiffe_id: &str) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(salt.len() + spiffe_id.len());
    bytes.extend_from_slice(salt);
    bytes.extend_from_slice(spiffe_id.as_bytes());
    keccak256(bytes).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;

    const SALT: [u8; 16] = hex!("000102030405060708090a0b0c0d0e0f");

    #[test]
    fn a_name_hash_depends_on_salt_kind_and_name() {
        let base = name_hash(&SALT, "capability", "payments.transfer");
        assert_ne!(base, name_hash(&[0; 16], "capability", "payments.transfer"));
        assert_ne!(base, name_hash(&SALT, "resource", "payments.transfer"));
        assert_ne!(base, name_hash(&SALT, "capability", "payments.transfers"));
    }

    #[test]
    fn the_hashes_are_keccak_over_the_documented_bytes() {
        let mut bytes = SALT.to_vec();
        bytes.extend_from_slice(b"capability\0payments.transfer");
        assert_eq!(
            name_hash(&SALT, "capability", "payments.transfer"),
            keccak256(bytes).0
        );
        let mut bytes = SALT.to_vec();
        bytes.extend_from_slice(b"spiffe://example.org/agent");
        assert_eq!(
            agent_key(&SALT, "spiffe://example.org/agent"),
            keccak256(bytes).0
        );
    }
}
