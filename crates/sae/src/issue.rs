//! Issuing: what is out of bounds is never signed.

use crate::encoding::to_base64url;
use crate::jws::{COMPACT_MAX_BYTES, Compact, Header};
use crate::{
    Algorithm, Denial, Envelope, KeyStatement, ReceiptClaims, Refusal, SignError, Signer, Token,
    json, low_s,
};

/// Why nothing was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The claims are not within the format's bounds.
    #[error("the claims cannot be issued: {0}")]
    Claims(Refusal),
    /// The compact form would be longer than the wire allows.
    #[error(
        "the token would be {0} bytes, more than 4096: select fewer fields or shorten the path"
    )]
    TooLarge(usize),
    /// The key cannot sign this kind of token.
    #[error("a token of type {0} cannot be signed with this key's algorithm; use the SVID's key")]
    Algorithm(&'static str),
    /// The key failed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Issues an envelope.
///
/// # Errors
/// [`IssueError`]: nothing out of bounds is signed.
pub fn issue_envelope(claims: &Envelope, signer: &dyn Signer) -> Result<Compact, IssueError> {
    issue(claims, None, signer)
}

/// Issues an envelope bound to a stapled status response (`ocsp#S256`).
///
/// # Errors
/// As [`issue_envelope`].
pub fn issue_stapled_envelope(
    claims: &Envelope,
    status_sha256: [u8; 32],
    signer: &dyn Signer,
) -> Result<Compact, IssueError> {
    issue(claims, Some(status_sha256), signer)
}

/// Issues a denial.
///
/// # Errors
/// As [`issue_envelope`].
pub fn issue_denial(claims: &Denial, signer: &dyn Signer) -> Result<Compact, IssueError> {
    issue(claims, None, signer)
}

/// Issues a receipt.
///
/// # Errors
/// As [`issue_envelope`].
pub fn issue_receipt(claims: &ReceiptClaims, signer: &dyn Signer) -> Result<Compact, IssueError> {
    issue(claims, None, signer)
}

/// Issues a key statement; `signer` is the SVID's key.
///
/// # Errors
/// As [`issue_envelope`].
pub fn issue_key_statement(
    claims: &KeyStatement,
    signer: &dyn Signer,
) -> Result<Compact, IssueError> {
    issue(claims, None, signer)
}

fn issue<T: Token>(
    claims: &T,
    ocsp: Option<[u8; 32]>,
    signer: &dyn Signer,
) -> Result<Compact, IssueError> {
    if !T::allows(signer.algorithm()) {
        return Err(IssueError::Algorithm(T::TYP));
    }
    claims.check_bounds().map_err(IssueError::Claims)?;
    let header = Header {
        alg: signer.algorithm().as_str().to_owned(),
        kid: signer.kid().to_owned(),
        ocsp,
        typ: T::TYP.to_owned(),
    };
    let header = json::canonical(&header).map_err(IssueError::Claims)?;
    let payload = json::canonical(claims).map_err(IssueError::Claims)?;
    let mut compact = to_base64url(&header);
    compact.push('.');
    compact.push_str(&to_base64url(&payload));

    let mut signature = signer.sign(compact.as_bytes())?;
    if signer.algorithm() == Algorithm::Es256 {
        signature = low_s(&signature)
            .map_err(|_| SignError("the key returned no ECDSA P-256 signature".into()))?;
    }
    compact.push('.');
    compact.push_str(&to_base64url(&signature));
    if compact.len() > COMPACT_MAX_BYTES {
        return Err(IssueError::TooLarge(compact.len()));
    }
    Ok(Compact(compact))
}
