//! A sidecar's record, made with the SVID of the published vectors.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use writ_ledger::encoding::from_base64url;
use writ_ledger::{CheckpointKey, Log, LogId, LogOptions, StartSignature};
use writ_sae::{Es256Signer, Signer};
use zeroize::Zeroizing;

/// When everything in it happens, unix seconds.
pub const NOW: u64 = 1_800_000_000;

/// Keys and certificates of the published vectors.
pub fn keys() -> Value {
    serde_json::from_str(include_str!("../../../crates/sae/tests/vectors/keys.json")).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let url = text
        .trim_end_matches('=')
        .replace('+', "-")
        .replace('/', "_");
    from_base64url(&url).unwrap()
}

/// The SVID of the published vectors.
pub fn signer() -> Es256Signer {
    let keys = keys();
    let agent = &keys["identities"]["agent"];
    let secret = from_base64url(agent["jwk"]["d"].as_str().unwrap()).unwrap();
    let chain = vec![base64(agent["certificate"].as_str().unwrap())];
    Es256Signer::new(&Zeroizing::new(secret.try_into().unwrap()), chain).unwrap()
}

/// A new log of this folder.
pub fn open(folder: &Path, seed: u8) -> Log {
    let key = CheckpointKey::from_seed(&Zeroizing::new([seed; 32]));
    let options = LogOptions::new(LogId::from_random([3; 10]), key, "test 1");
    let signer = signer();
    let path = folder.join("log.redb");
    Log::open(&path, options, Arc::new(|| NOW * 1000), |statement| {
        Some(StartSignature {
            alg: "ES256".into(),
            chain: signer.certificate_chain().to_vec(),
            value: signer.sign(statement).unwrap().to_vec(),
        })
    })
    .unwrap()
}
