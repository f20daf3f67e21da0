//! Who sent the request, and with which key they may sign.

use http::HeaderMap;
use writ_sae::{
    ChainVerifier, Envelope, KeyStatement, SaeCertificate, Unverified, VerifiedSvid, VerifyKey,
    fields, leaf_kid,
};

use crate::Refusal;

/// The peer of the connection, as TLS or an authenticated hop proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// DER certificates of the connection, leaf first; empty where a hop tells the identity only.
    pub chain: Vec<Vec<u8>>,
}

/// The one value of a field, `None` when absent.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::FieldRepeated(name));
    }
    first
        .to_str()
        .map(Some)
        .map_err(|_| Refusal::FieldRepeated(name))
}

/// Finds the certified key for `kid`: the connection's leaf, else what `SAE-Certificate` proves.
pub(crate) fn key_of(
    envelope: &Unverified<Envelope>,
    headers: &HeaderMap,
    peer: &Peer,
    chains: &dyn ChainVerifier,
    now: u64,
    skew: u64,
) -> Result<VerifyKey, Refusal> {
    let of_connection = peer
        .chain
        .first()
        .is_some_and(|leaf| leaf_kid(leaf) == envelope.kid());
    if of_connection {
        let svid = verify(chains, &peer.chain, now)?;
        return Ok(VerifyKey::from_svid(&svid)?);
    }
    let header = single(headers, fields::SAE_CERTIFICATE)?.ok_or(Refusal::CertificateMissing)?;
    let certificate = SaeCertificate::decode(header.as_bytes())?;
    let svid = verify(chains, &certificate.chain, now)?;
    // It must name the same identity as the connection.
    if svid.spiffe_id != peer.spiffe_id {
        return Err(writ_sae::Refusal::PeerMismatch.into());
    }
    let svid_key = VerifyKey::from_svid(&svid)?;
    let Some(statement) = &certificate.statement else {
        return Ok(svid_key);
    };
    let invalid = |why| writ_sae::Refusal::KeyStatementInvalid(Box::new(why));
    let statement = Unverified::<KeyStatement>::parse(statement)
        .map_err(invalid)?
        .verify(&svid_key, now, skew)?;
    Ok(VerifyKey::from_statement(&statement, &svid)?)
}

fn verify(
    chains: &dyn ChainVerifier,
    chain: &[Vec<u8>],
    now: u64,
) -> Result<VerifiedSvid, Refusal> {
    chains
        .verify_chain(chain, now)
        .map_err(|e| Refusal::ChainNotTrusted(e.to_string()))
}
