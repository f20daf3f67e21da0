#![no_main]
//! What decodes, encodes to a value that decodes to the same.

use libfuzzer_sys::fuzz_target;
use writ_sae::SaeCertificate;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(certificate) = SaeCertificate::decode(bytes) {
        // Padding that the input left out may lift the encoded form over the limit.
        let Ok(encoded) = certificate.encode() else {
            return;
        };
        assert_eq!(SaeCertificate::decode(encoded.as_bytes()), Ok(certificate));
    }
});
