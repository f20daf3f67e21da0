//! The checks, in their order.

use std::fmt;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use writ_canonical::CanonicalRequest;
use writ_policy::{AgentStatus, PROFILE, Registration, names::agent_key};
use writ_sae::{
    BodyDigest, Claims, Durability, Envelope, Expectations, HttpBinding, Jti, Unverified, Use,
    VerifiedEnvelope, fields, lifetime::MAX_SKEW,
};

use crate::Refusal;
use crate::catalogs::Classified;
use crate::config::{Binding, ConfigError, PepConfig};
use crate::sender::{Peer, key_of, single};
use crate::state::{ApprovalUse, ApprovalWindow, CallerState, CallerView, StateError};

/// Longest time for which a used approval is remembered.
const APPROVAL_MAX_SECONDS: u64 = 7 * 24 * 3600;

/// A request as it arrived and as it will be forwarded.
pub struct Inbound<'a> {
    /// Its canonical form.
    pub head: &'a CanonicalRequest,
    /// Its body.
    pub body: Body<'a>,
    /// All its fields; the SAE fields are read from here.
    pub headers: &'a HeaderMap,
    /// The peer; `None` where the PEP neither sees nor is told who it is.
    pub peer: Option<&'a Peer>,
    /// TLS exporter of this connection (RFC 9266), where the PEP ends it.
    pub channel_binding: Option<[u8; 32]>,
    /// Now, unix seconds.
    pub now: u64,
}

/// A request's body, as far as it was read.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Streaming, or longer than the PEP buffers.
    Stream,
}

/// A request that may be executed: its envelope is valid, fits, and is used up by this.
#[derive(Debug, Clone)]
#[must_use = "the envelope is used up: forward the request or record why not"]
pub struct Admitted {
    /// The envelope.
    pub envelope: VerifiedEnvelope,
    /// The action, as this PEP classified it.
    pub action: Classified,
    /// Key of the caller in the agent registry.
    pub agent_key: [u8; 32],
    /// What the registry said of the caller, and at which block.
    pub view: CallerView,
}

impl Admitted {
    /// Claims of the envelope.
    pub fn claims(&self) -> &Claims {
        self.envelope.claims()
    }
}

/// A policy enforcement point.
pub struct Pep {
    config: PepConfig,
}

impl fmt::Debug for Pep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pep")
            .field("audience", &self.config.audience)
            .finish_non_exhaustive()
    }
}

impl Pep {
    /// A PEP with this configuration.
    ///
    /// # Errors
    /// [`ConfigError`] for one that would not be safe.
    pub fn new(config: PepConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config })
    }

    /// Checks a request against its envelope, in the order of the format (`docs/sae.md`), and
    /// uses the envelope up as the last step: any refusal before that leaves it unused.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub async fn check(&self, inbound: Inbound<'_>) -> Result<Admitted, Refusal> {
        let envelope = self.authenticate(&inbound)?;
        let claims = envelope.claims();
        let http = self.kind_served(claims)?;
        request_matches(http, &claims.sub, &inbound)?;
        let state = self.state_of(claims)?;
        let (agent_key, view) = self.registered(claims, state).await?;
        let action = self.recompute(claims, http, &inbound)?;
        let approval = self
            .approval(claims, agent_key, &action, state, inbound.now)
            .await?;
        self.obligations(claims)?;
        self.channel_binding(claims, inbound.channel_binding)?;
        self.use_up(claims, approval, inbound.now).await?;
        Ok(Admitted {
            envelope,
            action,
            agent_key,
            view,
        })
    }

    /// Size, form, `typ`, `alg`, key chain, signature, issuer and peer, audience, times.
    fn authenticate(&self, inbound: &Inbound<'_>) -> Result<VerifiedEnvelope, Refusal> {
        let compact = single(inbound.headers, fields::SAE)?.ok_or(Refusal::EnvelopeMissing)?;
        let envelope = Unverified::<Envelope>::parse(compact)?;
        let peer = inbound.peer.ok_or(Refusal::PeerUnknown)?;
        let skew = self.config.skew.as_secs();
        let key = key_of(
            &envelope,
            inbound.headers,
            peer,
            self.config.chains.as_ref(),
            inbound.now,
            skew,
        )?;
        let expectations = Expectations {
            now: inbound.now,
            skew,
            audience: &self.config.audience,
            peer: Some(&peer.spiffe_id),
            replay_since: self.replay_since(),
        };
        let envelope = envelope.verify(&key, &expectations)?;
        // No issuer with a responder is configured: a staple proves nothing here.
        if envelope.status_digest().is_some() || inbound.headers.contains_key(fields::SAE_STATUS) {
            return Err(Refusal::StatusNotProved);
        }
        Ok(envelope)
    }

    /// Since when the replay store knows what was used, where that matters: where every envelope
    /// must be bound to its connection, none can have been used before the connection was there,
    /// and the store lives at least as long as the connections.
    fn replay_since(&self) -> Option<u64> {
        match self.config.binding {
            Binding::Required => None,
            Binding::Optional => self.config.replay.complete_since(),
        }
    }

    fn kind_served<'a>(&self, claims: &'a Claims) -> Result<&'a HttpBinding, Refusal> {
        let served = self.config.kinds.contains(&claims.act.kind);
        match &claims.act.http {
            Some(http) if served => Ok(http),
            _ => Err(Refusal::KindNotServed),
        }
    }

    fn state_of(&self, claims: &Claims) -> Result<&dyn CallerState, Refusal> {
        let trust_domain = claims
            .iss
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split('/').next())
            .unwrap_or_default();
        let state = self
            .config
            .trust_domains
            .get(trust_domain)
            .ok_or(Refusal::TrustDomainUnknown)?;
        if state.chain_id() != claims.pol.chain_id {
            return Err(Refusal::ChainMismatch);
        }
        if claims.pol.evm != PROFILE {
            return Err(Refusal::EvmProfileUnknown);
        }
        Ok(state.as_ref())
    }

    /// The caller is active, and its policy is still the one that the envelope names.
    async fn registered(
        &self,
        claims: &Claims,
        state: &dyn CallerState,
    ) -> Result<([u8; 32], CallerView), Refusal> {
        let block = claims.pol.block;
        let mut head = state.head().ok_or(Refusal::StateStale)?;
        if block > head {
            let waited = state.wait_for_block(block, self.config.block_wait).await;
            head = waited.unwrap_or(head);
            if block > head {
                return Err(Refusal::StateBehind { block, head });
            }
        }
        if head - block > self.config.max_block_lag {
            return Err(Refusal::StateTooOld);
        }
        let agent_key = agent_key(&claims.pol.salt, &claims.iss);
        let view = state.registration(agent_key).await.map_err(state_refusal)?;
        if view.block < block {
            let head = view.block;
            return Err(Refusal::StateBehind { block, head });
        }
        active(&view.registration)?;
        matches_registry(claims, &view.registration)?;
        Ok((agent_key, view))
    }

    /// Classifies the request again by the caller's catalog.
    fn recompute(
        &self,
        claims: &Claims,
        http: &HttpBinding,
        inbound: &Inbound<'_>,
    ) -> Result<Classified, Refusal> {
        let catalog = self
            .config
            .catalogs
            .by_hash(&claims.pol.catalog_hash)
            .ok_or(Refusal::CatalogUnknown)?;
        let body = match (http.content_digest, inbound.body) {
            (BodyDigest::Sha256(_), Body::Whole(bytes)) => Some(bytes),
            _ => None,
        };
        let candidates = catalog
            .classify(inbound.head, body)
            .map_err(Refusal::NotClassified)?;
        let mut first = None;
        for action in candidates {
            match action_matches(claims, &action) {
                Ok(()) => return Ok(action),
                Err(refusal) => first = first.or(Some(refusal)),
            }
        }
        Err(first.unwrap_or(Refusal::DestinationMismatch))
    }

    async fn approval(
        &self,
        claims: &Claims,
        agent_key: [u8; 32],
        action: &Classified,
        state: &dyn CallerState,
        now: u64,
    ) -> Result<Option<([u8; 32], u64)>, Refusal> {
        let Some(approval) = claims.ctx.approval else {
            return Ok(None);
        };
        let wanted = ApprovalUse {
            approval,
            agent_key,
            claims,
            action,
        };
        match state.approval(wanted).await.map_err(state_refusal)? {
            // One that outlives the replay store's memory could be used twice.
            ApprovalWindow::Open { until }
                if until > now && until <= now.saturating_add(APPROVAL_MAX_SECONDS) =>
            {
                Ok(Some((approval, until)))
            }
            _ => Err(Refusal::ApprovalNotOpen),
        }
    }

    fn obligations(&self, claims: &Claims) -> Result<(), Refusal> {
        match claims.ctx.obligations & !self.config.obligations {
            0 => Ok(()),
            unknown => Err(Refusal::ObligationUnsupported(unknown)),
        }
    }

    fn channel_binding(&self, claims: &Claims, own: Option<[u8; 32]>) -> Result<(), Refusal> {
        match (claims.ctx.cb, own) {
            (Some(theirs), Some(own)) if theirs == own => Ok(()),
            (Some(_), _) => Err(Refusal::ChannelBindingMismatch),
            (None, _) if self.config.binding == Binding::Required => {
                Err(Refusal::ChannelBindingMissing)
            }
            (None, _) => Ok(()),
        }
    }

    async fn use_up(
        &self,
        claims: &Claims,
        approval: Option<([u8; 32], u64)>,
        now: u64,
    ) -> Result<(), Refusal> {
        // The greatest skew, not the configured one, so that raising it later lets nothing in
        // whose entry was swept under the lower one.
        let expires = claims.exp.saturating_add(MAX_SKEW);
        let entry = (claims.iss.as_str(), claims.jti, expires);
        self.first_use(entry, now, self.durability(), Refusal::Replayed)
            .await?;
        if let Some((approval, until)) = approval {
            // Approvals share the store under an issuer that no SPIFFE ID equals.
            let issuer = format!("approval:{}", hex::encode(approval));
            let expires = until.saturating_add(MAX_SKEW);
            let entry = (issuer.as_str(), Jti([0; 16]), expires);
            self.first_use(entry, now, Durability::Now, Refusal::ApprovalUsed)
                .await?;
        }
        Ok(())
    }

    /// No envelope that must be bound to its connection outlives the process that ends the
    /// connection, so its use need not be on the disk before the request goes on.
    fn durability(&self) -> Durability {
        match self.config.binding {
            Binding::Required => Durability::Soon,
            Binding::Optional => Durability::Now,
        }
    }

    async fn first_use(
        &self,
        (issuer, jti, expires): (&str, Jti, u64),
        now: u64,
        durability: Durability,
        replayed: Refusal,
    ) -> Result<(), Refusal> {
        let replay = &self.config.replay;
        match replay.use_once(issuer, jti, expires, now, durability).await {
            Ok(Use::Fresh) => Ok(()),
            Ok(Use::Replayed) => Err(replayed),
            Ok(Use::Forgotten) => Err(Refusal::ReplayForgotten),
            Ok(Use::Full) => Err(Refusal::ReplayStoreFull),
            Err(error) => {
                tracing::error!(%error, "no envelope can be accepted");
                Err(Refusal::ReplayStoreUnavailable)
            }
        }
    }
}

fn request_matches(http: &HttpBinding, sub: &str, inbound: &Inbound<'_>) -> Result<(), Refusal> {
    let head = inbound.head;
    if http.method != head.method {
        return Err(Refusal::MethodMismatch);
    }
    if http.path != head.path {
        return Err(Refusal::PathMismatch);
    }
    if sub != head.target_uri() {
        return Err(Refusal::TargetMismatch);
    }
    if http.query_digest != head.query_digest() {
        return Err(Refusal::QueryMismatch);
    }
    if http.fields_digest != head.fields_digest() {
        return Err(Refusal::FieldsMismatch);
    }
    match (http.content_digest, inbound.body) {
        (BodyDigest::Unbound, _) => Ok(()),
        (BodyDigest::Sha256(_), Body::Stream) => Err(Refusal::BodyTooLarge),
        (BodyDigest::Sha256(decided), Body::Whole(bytes)) => {
            if <[u8; 32]>::from(Sha256::digest(bytes)) == decided {
                Ok(())
            } else {
                Err(Refusal::BodyMismatch)
            }
        }
    }
}

fn action_matches(claims: &Claims, action: &Classified) -> Result<(), Refusal> {
    if action.audience != claims.aud {
        return Err(Refusal::DestinationMismatch);
    }
    if action.kind != claims.act.kind {
        return Err(Refusal::KindMismatch);
    }
    if action.capability != claims.act.method {
        return Err(Refusal::CapabilityMismatch);
    }
    // Detectors may have raised the class at the sender; nothing lowers it.
    if action.class > claims.act.classification {
        return Err(Refusal::ClassMismatch);
    }
    if action.params_digest != claims.act.params.digest {
        return Err(Refusal::ParamsMismatch);
    }
    Ok(())
}

fn active(registration: &Registration) -> Result<(), Refusal> {
    match registration.status {
        AgentStatus::Active => {}
        AgentStatus::Unknown => return Err(Refusal::AgentUnknown),
        AgentStatus::Paused => return Err(Refusal::AgentPaused),
        AgentStatus::Revoked => return Err(Refusal::AgentRevoked),
    }
    if registration.paused {
        return Err(Refusal::PolicyPaused);
    }
    Ok(())
}

fn matches_registry(claims: &Claims, registration: &Registration) -> Result<(), Refusal> {
    let pol = &claims.pol;
    let changed = [
        ("policy", pol.policy == registration.policy_id),
        (
            "contract",
            pol.contract == registration.contract.into_array(),
        ),
        ("code hash", pol.code_hash == registration.code_hash),
        (
            "catalog hash",
            pol.catalog_hash == registration.catalog_hash,
        ),
    ];
    if let Some((what, _)) = changed.iter().find(|(_, same)| !same) {
        return Err(Refusal::PolicyChanged(what));
    }
    if registration.model != [0; 32] && registration.model != claims.model.sha256 {
        return Err(Refusal::ModelMismatch);
    }
    Ok(())
}

fn state_refusal(error: StateError) -> Refusal {
    match error {
        StateError::Stale => Refusal::StateStale,
        StateError::Unavailable(why) => Refusal::StateUnavailable(why),
        StateError::ApprovalsUnknown => Refusal::ApprovalNotCheckable,
    }
}
