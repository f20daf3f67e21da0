//! Signing: one envelope, from its claims to its compact form, with the key that a sidecar holds.

use std::hint::black_box;

use criterion::Criterion;
use p256::pkcs8::EncodePrivateKey;
use rustls_pki_types::CertificateDer;
use writ_identity::{Svid, SvidSigner};
use writ_sae::{Signer, encoding, issue_envelope};
use zeroize::Zeroizing;

use crate::latency;
use crate::world::{World, keys_file};

/// Budget: 2 ms required, 0.05 ms ours.
pub fn stage(c: &mut Criterion) {
    let world = World::new();
    let claims = world.claims();
    let svid = svid(&world.agent.der);
    let svid_signer = SvidSigner::new(&svid).unwrap();
    let mut group = c.benchmark_group("sign");
    let signers: [(&str, &dyn Signer); 2] = [
        ("es256-svid", &svid_signer),
        ("es256-pure-rust", &world.agent.signer),
    ];
    for (name, signer) in signers {
        let run = || {
            issue_envelope(black_box(&claims), signer).unwrap();
        };
        group.bench_function(name, |b| b.iter(run));
        latency::keep(
            "sign",
            name,
            latency::time(latency::ACTIONS, || (), |()| run()),
        );
    }
    group.finish();
}

fn svid(leaf: &[u8]) -> Svid {
    let file = keys_file();
    let secret = file["identities"]["agent"]["jwk"]["d"].as_str().unwrap();
    let secret = encoding::from_base64url(secret).unwrap();
    let key = p256::SecretKey::from_slice(&secret).unwrap();
    let pkcs8 = Zeroizing::new(key.to_pkcs8_der().unwrap().as_bytes().to_vec());
    Svid::new(vec![CertificateDer::from(leaf.to_vec())], pkcs8).unwrap()
}
