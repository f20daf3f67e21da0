//! The attacks: each changes one thing of an envelope that would otherwise be accepted.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::Deserialize;
use writ_identity::SvidSigner;
use writ_sae::{
    Algorithm, Claims, Envelope, Jti, SaeCertificate, SignError, Signer, Unverified,
    issue_envelope, low_s,
};

use crate::AttackError;
use crate::connection::{Answer, Connection, Target};

/// A request that was accepted once.
#[derive(Debug, Deserialize)]
pub struct Template {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Template {
    pub(crate) fn headers(&self) -> Result<HeaderMap, AttackError> {
        let bad = |error: &dyn std::fmt::Display| AttackError::Template(error.to_string());
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: HeaderName = name.to_ascii_lowercase().parse().map_err(|e| bad(&e))?;
            if name.as_str().starts_with("sae") || name.as_str() == "content-length" {
                continue;
            }
            let value: HeaderValue = value.parse().map_err(|e| bad(&e))?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    pub(crate) fn envelope(&self) -> Result<(&str, Claims), AttackError> {
        let compact = self
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("sae"))
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| AttackError::Template("the request has no SAE field".into()))?;
        let parsed = Unverified::<Envelope>::parse(compact)
            .map_err(|refusal| AttackError::Template(refusal.to_string()))?;
        Ok((compact, parsed.unverified_claims().clone()))
    }
}

/// A key that no certificate vouches for, behind the name of one that is.
struct ForgedSigner {
    key: EcdsaKeyPair,
    kid: String,
    chain: Vec<Vec<u8>>,
    random: SystemRandom,
}

impl ForgedSigner {
    fn beside(honest: &dyn Signer) -> Result<Self, AttackError> {
        let failed = |_| AttackError::Envelope("no key could be made".into());
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(failed)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
            .map_err(|_| AttackError::Envelope("no key could be made".into()))?;
        debug_assert_eq!(key.public_key().as_ref().len(), 65);
        Ok(Self {
            key,
            kid: honest.kid().to_owned(),
            chain: honest.certificate_chain().to_vec(),
            random,
        })
    }
}

impl Signer for ForgedSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn kid(&self) -> &str {
        &self.kid
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = self
            .key
            .sign(&self.random, message)
            .map_err(|_| SignError("signing failed".into()))?;
        let fixed: [u8; 64] = signature
            .as_ref()
            .try_into()
            .map_err(|_| SignError("signature of another length".into()))?;
        low_s(&fixed).map_err(|refusal| SignError(refusal.to_string()))
    }
    fn certificate_chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
    fn key_statement(&self) -> Option<&str> {
        None
    }
}

struct Attack<'a> {
    target: &'a Target,
    template: &'a Template,
    headers: HeaderMap,
    claims: Claims,
    signer: SvidSigner,
    random: SystemRandom,
}

/// Runs every case, each on a connection of its own, and names what the PEP answered.
///
/// # Errors
/// When an attack could not be carried out.
pub async fn run_all(
    target: &Target,
    template: &Template,
) -> Result<BTreeMap<&'static str, Answer>, AttackError> {
    let (captured, claims) = template.envelope()?;
    let attack = Attack {
        target,
        template,
        headers: template.headers()?,
        claims,
        signer: SvidSigner::new(&target.source.svid())?,
        random: SystemRandom::new(),
    };
    let mut report = BTreeMap::new();
    report.insert("no envelope", attack.bare().await?);
    report.insert("captured envelope", attack.present(captured).await?);
    report.insert("envelope of another connection", attack.elsewhere().await?);
    report.insert("fresh envelope", attack.with(|_| {}).await?);
    report.insert("replayed envelope", attack.replay().await?);
    report.insert("forged signature", attack.forge().await?);
    report.insert("altered envelope", attack.alter().await?);
    report.insert(
        "expired envelope",
        attack
            .with(|claims| {
                claims.iat -= 3600;
                claims.nbf = claims.iat;
                claims.exp = claims.iat + 60;
            })
            .await?,
    );
    report.insert(
        "envelope under another policy",
        attack.with(|claims| claims.pol.policy = [0x42; 32]).await?,
    );
    report.insert(
        "envelope for another audience",
        attack
            .with(|claims| claims.aud = "spiffe://elsewhere.example/pep".into())
            .await?,
    );
    report.insert("altered body", attack.other_body().await?);
    report.insert("altered path", attack.other_path().await?);
    Ok(report)
}

impl Attack<'_> {
    /// The captured claims, made fresh and bound to `connection`, then changed.
    fn claims(
        &self,
        connection: &Connection,
        change: impl FnOnce(&mut Claims),
    ) -> Result<Claims, AttackError> {
        let mut claims = self.claims.clone();
        let mut jti = [0; 16];
        self.random
            .fill(&mut jti)
            .map_err(|_| AttackError::Envelope("no randomness".into()))?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_err(|error| AttackError::Envelope(error.to_string()))?
            .as_secs();
        claims.jti = Jti(jti);
        claims.iat = now;
        claims.nbf = now;
        claims.exp = now + 60;
        claims.ctx.cb = Some(connection.channel_binding);
        change(&mut claims);
        Ok(claims)
    }

    fn issue(&self, claims: &Claims, signer: &dyn Signer) -> Result<String, AttackError> {
        issue_envelope(claims, signer)
            .map(writ_sae::Compact::into_string)
            .map_err(|error| AttackError::Envelope(error.to_string()))
    }

    fn stamped(&self, compact: &str) -> Result<HeaderMap, AttackError> {
        let bad = |error: &dyn std::fmt::Display| AttackError::Envelope(error.to_string());
        let certificate = SaeCertificate::of(&self.signer)
            .encode()
            .map_err(|refusal| bad(&refusal))?;
        let mut headers = self.headers.clone();
        headers.insert(writ_sae::fields::SAE, compact.parse().map_err(|e| bad(&e))?);
        headers.insert(
            writ_sae::fields::SAE_CERTIFICATE,
            certificate.parse().map_err(|e| bad(&e))?,
        );
        Ok(headers)
    }

    async fn send(
        &self,
        connection: &mut Connection,
        headers: &HeaderMap,
    ) -> Result<Answer, AttackError> {
        connection
            .send(
                &self.template.method,
                &self.template.path,
                headers,
                self.template.body.as_bytes(),
            )
            .await
    }

    async fn bare(&self) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        self.send(&mut connection, &self.headers).await
    }

    async fn present(&self, compact: &str) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        self.send(&mut connection, &self.stamped(compact)?).await
    }

    async fn with(&self, change: impl FnOnce(&mut Claims)) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        let compact = self.issue(&self.claims(&connection, change)?, &self.signer)?;
        self.send(&mut connection, &self.stamped(&compact)?).await
    }

    /// Right in everything, but made for another connection.
    async fn elsewhere(&self) -> Result<Answer, AttackError> {
        let first = Connection::open(self.target).await?;
        let compact = self.issue(&self.claims(&first, |_| {})?, &self.signer)?;
        self.present(&compact).await
    }

    async fn replay(&self) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        let compact = self.issue(&self.claims(&connection, |_| {})?, &self.signer)?;
        let headers = self.stamped(&compact)?;
        self.send(&mut connection, &headers).await?;
        self.send(&mut connection, &headers).await
    }

    async fn forge(&self) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        let forged = ForgedSigner::beside(&self.signer)?;
        let compact = self.issue(&self.claims(&connection, |_| {})?, &forged)?;
        self.send(&mut connection, &self.stamped(&compact)?).await
    }

    /// Sets the signed risk score to 0 and keeps the signature.
    async fn alter(&self) -> Result<Answer, AttackError> {
        const FIELD: &str = "\"risk_score\":";
        let lost = || AttackError::Envelope("the envelope has no risk score to alter".into());
        let mut connection = Connection::open(self.target).await?;
        let honest = self.issue(&self.claims(&connection, |_| {})?, &self.signer)?;
        let mut parts = honest.splitn(3, '.');
        let (Some(header), Some(payload), Some(signature)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(lost());
        };
        let payload = BASE64URL.decode(payload).map_err(|_| lost())?;
        let payload = String::from_utf8(payload).map_err(|_| lost())?;
        let (before, after) = payload.split_once(FIELD).ok_or_else(lost)?;
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        let payload = BASE64URL.encode(format!("{before}{FIELD}0{rest}"));
        let altered = format!("{header}.{payload}.{signature}");
        self.send(&mut connection, &self.stamped(&altered)?).await
    }

    async fn other_body(&self) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        let compact = self.issue(&self.claims(&connection, |_| {})?, &self.signer)?;
        let headers = self.stamped(&compact)?;
        let body = self.template.body.replacen('1', "9", 1) + " ";
        connection
            .send(
                &self.template.method,
                &self.template.path,
                &headers,
                body.as_bytes(),
            )
            .await
    }

    async fn other_path(&self) -> Result<Answer, AttackError> {
        let mut connection = Connection::open(self.target).await?;
        let compact = self.issue(&self.claims(&connection, |_| {})?, &self.signer)?;
        let headers = self.stamped(&compact)?;
        connection
            .send(
                &self.template.method,
                "/v1/elsewhere",
                &headers,
                self.template.body.as_bytes(),
            )
            .await
    }
}
