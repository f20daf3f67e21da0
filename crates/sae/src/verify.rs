//! From [`Unverified`] to [`Verified`].

use std::marker::PhantomData;

use crate::lifetime::MAX_SKEW;
use crate::{
    DefaultVerifier, Denial, Envelope, KeyStatement, ReceiptClaims, Refusal, SignatureVerifier,
    Token, Unverified, Verified, VerifyKey, crypto::SignatureCheck,
};

/// What a verifier of envelopes expects.
#[derive(Debug, Clone)]
pub struct Expectations<'a> {
    /// Now, unix seconds.
    pub now: u64,
    /// Tolerated clock skew in seconds; more than 60 counts as 60.
    pub skew: u64,
    /// The verifier's own names; `aud` must be one of them.
    pub audience: &'a [String],
    /// Identity of the connection's peer, where the verifier sees it.
    pub peer: Option<&'a str>,
    /// Creation time of the replay store, unix seconds: an envelope issued before it (plus skew)
    /// may have been used already.
    pub replay_since: Option<u64>,
}

impl Unverified<Envelope> {
    /// Verifies, in order: algorithm and key, signature, issuer, peer, audience, times.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub fn verify(
        self,
        key: &VerifyKey,
        expect: &Expectations<'_>,
    ) -> Result<Verified<Envelope>, Refusal> {
        self.verify_with(key, expect, &DefaultVerifier::default())
    }

    /// As [`Self::verify`], with another implementation of the algorithms.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub fn verify_with(
        self,
        key: &VerifyKey,
        expect: &Expectations<'_>,
        crypto: &dyn SignatureVerifier,
    ) -> Result<Verified<Envelope>, Refusal> {
        let verified = self.signed_by(key, crypto)?;
        let claims = verified.claims();
        if expect.peer.is_some_and(|peer| peer != claims.iss) {
            return Err(Refusal::PeerMismatch);
        }
        if !expect.audience.contains(&claims.aud) {
            return Err(Refusal::AudienceMismatch);
        }
        check_times(claims, expect)?;
        Ok(verified)
    }
}

fn check_times(claims: &Envelope, expect: &Expectations<'_>) -> Result<(), Refusal> {
    let skew = expect.skew.min(MAX_SKEW);
    let latest = expect.now.saturating_add(skew);
    if claims.iat > latest {
        return Err(Refusal::IssuedInFuture);
    }
    if claims.nbf > latest {
        return Err(Refusal::NotYetValid);
    }
    if claims.exp.saturating_add(skew) <= expect.now {
        return Err(Refusal::Expired);
    }
    // The issuer's clock may run ahead by the skew, so one from before the loss can bear an iat
    // up to that much after it.
    if expect
        .replay_since
        .is_some_and(|since| claims.iat < since.saturating_add(skew))
    {
        return Err(Refusal::IssuedBeforeBoot);
    }
    Ok(())
}

impl Unverified<Denial> {
    /// Verifies key, signature and issuer.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub fn verify(self, key: &VerifyKey) -> Result<Verified<Denial>, Refusal> {
        self.signed_by(key, &DefaultVerifier::default())
    }
}

impl Unverified<ReceiptClaims> {
    /// Verifies key, signature and issuer, and that the receipt is for the envelope `sae`.
    ///
    /// # Errors
    /// The first [`Refusal`]; [`Refusal::ClaimOutOfBounds`] (`sae`) for another envelope's.
    pub fn verify(
        self,
        key: &VerifyKey,
        sae: &[u8; 32],
    ) -> Result<Verified<ReceiptClaims>, Refusal> {
        let verified = self.signed_by(key, &DefaultVerifier::default())?;
        if verified.claims().sae != *sae {
            return Err(Refusal::ClaimOutOfBounds("sae"));
        }
        Ok(verified)
    }
}

impl Unverified<KeyStatement> {
    /// Verifies, against the SVID's own key, signature, issuer and times.
    ///
    /// # Errors
    /// [`Refusal::KeyStatementInvalid`] around the first reason.
    pub fn verify(
        self,
        svid_key: &VerifyKey,
        now: u64,
        skew: u64,
    ) -> Result<Verified<KeyStatement>, Refusal> {
        let inner = || {
            let verified = self.signed_by(svid_key, &DefaultVerifier::default())?;
            let skew = skew.min(MAX_SKEW);
            if verified.claims().nbf > now.saturating_add(skew) {
                return Err(Refusal::NotYetValid);
            }
            // No skew on the end: it is no later than the certificate's, which has none.
            if verified.claims().exp <= now {
                return Err(Refusal::Expired);
            }
            Ok(verified)
        };
        inner().map_err(|why| Refusal::KeyStatementInvalid(Box::new(why)))
    }
}

impl<T: Token> Unverified<T> {
    fn signed_by(
        self,
        key: &VerifyKey,
        crypto: &dyn SignatureVerifier,
    ) -> Result<Verified<T>, Refusal> {
        if self.kid != key.kid {
            return Err(Refusal::UnknownKey);
        }
        if self.algorithm != key.algorithm {
            return Err(Refusal::AlgKeyMismatch);
        }
        let check = crypto.verify(
            key.algorithm,
            &key.public_key,
            self.signing_input(),
            &self.signature,
        );
        if check != SignatureCheck::Good {
            return Err(Refusal::SignatureInvalid);
        }
        if self.claims.issuer() != key.spiffe_id {
            return Err(Refusal::IssuerMismatch);
        }
        if self
            .claims
            .issuer_dn()
            .is_some_and(|dn| dn != key.subject_dn)
        {
            return Err(Refusal::SubjectDnMismatch);
        }
        Ok(Verified {
            compact: self.compact,
            algorithm: self.algorithm,
            kid: self.kid,
            ocsp: self.ocsp,
            claims: self.claims,
            _only_by_verification: PhantomData,
        })
    }
}
