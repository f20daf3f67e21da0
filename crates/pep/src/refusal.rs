//! Why a request is refused: one reason per check, in the order of the checks.

use std::fmt;

use http::StatusCode;

/// A refused request. It is a value, not an error: the PEP did its work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No `SAE` field.
    EnvelopeMissing,
    /// `SAE`, `SAE-Certificate` or `SAE-Status` occurs more than once, or is not ASCII.
    FieldRepeated(&'static str),
    /// The envelope, its key or the key statement: form, type, algorithm, signature, issuer,
    /// peer, audience or times.
    Envelope(writ_sae::Refusal),
    /// The PEP does not see who is connected, and no authenticated hop tells it.
    PeerUnknown,
    /// `kid` is not the connection's leaf and there is no `SAE-Certificate`.
    CertificateMissing,
    /// The chain leads to no trusted bundle.
    ChainNotTrusted(String),
    /// A staple is bound and missing, another one, or cannot be checked here.
    StatusNotProved,
    /// `act.kind` is not one that this PEP serves.
    KindNotServed,
    /// The request cannot be brought into canonical form.
    RequestNotCanonical(String),
    /// The request's scheme, host, port or path is not that of `sub`.
    TargetMismatch,
    /// Another method than `act.http.method`.
    MethodMismatch,
    /// Another path than `act.http.path`.
    PathMismatch,
    /// Another query than the digest says.
    QueryMismatch,
    /// Other end-to-end fields than the digest says.
    FieldsMismatch,
    /// Another body than the digest says.
    BodyMismatch,
    /// The body is longer than this PEP buffers.
    BodyTooLarge,
    /// The body broke off.
    BodyBroken,
    /// The body took too long to arrive.
    BodyLate,
    /// No chain is configured for the issuer's trust domain.
    TrustDomainUnknown,
    /// `pol.chain_id` is not the chain configured for the trust domain.
    ChainMismatch,
    /// `pol.evm` is not the profile that this PEP knows.
    EvmProfileUnknown,
    /// Own state is older than allowed.
    StateStale,
    /// Own state cannot be read.
    StateUnavailable(String),
    /// `pol.block` is ahead of the PEP's head, also after the bounded wait.
    StateBehind {
        /// The envelope's block.
        block: u64,
        /// The PEP's own.
        head: u64,
    },
    /// `pol.block` is further behind the PEP's head than allowed.
    StateTooOld,
    /// The agent is not in the registry.
    AgentUnknown,
    /// The agent is paused.
    AgentPaused,
    /// The agent is revoked.
    AgentRevoked,
    /// The policy, or every policy, is paused.
    PolicyPaused,
    /// `mod.sha256` is not the registered model.
    ModelMismatch,
    /// The registry names another policy, contract, code or catalog by now. The `jti` is not
    /// used up: the sender decides anew, once.
    PolicyChanged(&'static str),
    /// The PEP does not hold the catalog with that hash.
    CatalogUnknown,
    /// By the catalog the request leads to no destination, or to one of another audience.
    DestinationMismatch,
    /// The catalog cannot classify the request.
    NotClassified(String),
    /// By the catalog the request is another kind of action.
    KindMismatch,
    /// By the catalog the request needs another capability.
    CapabilityMismatch,
    /// By the catalog the data class is higher than the envelope says.
    ClassMismatch,
    /// By the catalog the parameters have another digest.
    ParamsMismatch,
    /// The envelope uses an approval and this PEP cannot check approvals.
    ApprovalNotCheckable,
    /// The approval is not open for this agent and action.
    ApprovalNotOpen,
    /// The approval was used before.
    ApprovalUsed,
    /// The verdict carries a duty that this PEP cannot fulfil.
    ObligationUnsupported(u32),
    /// The envelope is not bound to a connection, and this PEP requires it.
    ChannelBindingMissing,
    /// The envelope is bound to another connection.
    ChannelBindingMismatch,
    /// Used before.
    Replayed,
    /// The clock went back: the store cannot know whether this one was used.
    ReplayForgotten,
    /// The replay store has no room.
    ReplayStoreFull,
    /// The replay store does not answer.
    ReplayStoreUnavailable,
    /// The verdict could not be recorded, so nothing is let through.
    NotRecorded(String),
    /// The receipt could not be signed, so nothing is let through.
    ReceiptNotSigned(String),
}

impl From<writ_sae::Refusal> for Refusal {
    fn from(refusal: writ_sae::Refusal) -> Self {
        Self::Envelope(refusal)
    }
}

impl Refusal {
    /// Whether the request may go on where refusals are only observed: not when the guardian
    /// stopped its agent, nor when it cannot be recorded or is no proper request.
    #[must_use]
    pub fn observable(&self) -> bool {
        match self {
            Self::FieldRepeated(_)
            | Self::RequestNotCanonical(_)
            | Self::BodyTooLarge
            | Self::BodyBroken
            | Self::BodyLate
            | Self::AgentPaused
            | Self::AgentRevoked
            | Self::PolicyPaused
            | Self::NotRecorded(_)
            | Self::ReceiptNotSigned(_) => false,
            Self::EnvelopeMissing
            | Self::Envelope(_)
            | Self::PeerUnknown
            | Self::CertificateMissing
            | Self::ChainNotTrusted(_)
            | Self::StatusNotProved
            | Self::KindNotServed
            | Self::TargetMismatch
            | Self::MethodMismatch
            | Self::PathMismatch
            | Self::QueryMismatch
            | Self::FieldsMismatch
            | Self::BodyMismatch
            | Self::TrustDomainUnknown
            | Self::ChainMismatch
            | Self::EvmProfileUnknown
            | Self::StateStale
            | Self::StateUnavailable(_)
            | Self::StateBehind { .. }
            | Self::StateTooOld
            | Self::AgentUnknown
            | Self::ModelMismatch
            | Self::PolicyChanged(_)
            | Self::CatalogUnknown
            | Self::DestinationMismatch
            | Self::NotClassified(_)
            | Self::KindMismatch
            | Self::CapabilityMismatch
            | Self::ClassMismatch
            | Self::ParamsMismatch
            | Self::ApprovalNotCheckable
            | Self::ApprovalNotOpen
            | Self::ApprovalUsed
            | Self::ObligationUnsupported(_)
            | Self::ChannelBindingMissing
            | Self::ChannelBindingMismatch
            | Self::Replayed
            | Self::ReplayForgotten
            | Self::ReplayStoreFull
            | Self::ReplayStoreUnavailable => true,
        }
    }
}

/// What the refusal means for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An envelope was presented after its end (`action.expired`).
    Expired,
    /// An envelope was presented again (`action.replayed`, high severity).
    Replayed,
    /// A signature, digest or binding does not fit (`action.altered`, high severity).
    Altered,
    /// Any other refusal (`action.refused`).
    Refused,
}

impl Event {
    /// Stable name of the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "action.expired",
            Self::Replayed => "action.replayed",
            Self::Altered => "action.altered",
            Self::Refused => "action.refused",
        }
    }
}

impl Refusal {
    /// Stable kebab-case code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EnvelopeMissing => "envelope-missing",
            Self::FieldRepeated(_) => "sae-field-repeated",
            Self::Envelope(inner) => inner.code(),
            Self::PeerUnknown => "peer-unknown",
            Self::CertificateMissing => "certificate-missing",
            Self::ChainNotTrusted(_) => "chain-not-trusted",
            Self::StatusNotProved => "status-not-proved",
            Self::KindNotServed => "kind-not-served",
            Self::RequestNotCanonical(_) => "request-not-canonical",
            Self::TargetMismatch => "target-mismatch",
            Self::MethodMismatch => "method-mismatch",
            Self::PathMismatch => "path-mismatch",
            Self::QueryMismatch => "query-mismatch",
            Self::FieldsMismatch => "fields-mismatch",
            Self::BodyMismatch => "body-mismatch",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyBroken => "body-broken",
            Self::BodyLate => "body-late",
            Self::TrustDomainUnknown => "trust-domain-unknown",
            Self::ChainMismatch => "chain-mismatch",
            Self::EvmProfileUnknown => "evm-profile-unknown",
            Self::StateStale => "state-stale",
            Self::StateUnavailable(_) => "state-unavailable",
            Self::StateBehind { .. } => "state-behind",
            Self::StateTooOld => "state-too-old",
            Self::AgentUnknown => "agent-unknown",
            Self::AgentPaused => "agent-paused",
            Self::AgentRevoked => "agent-revoked",
            Self::PolicyPaused => "policy-paused",
            Self::ModelMismatch => "model-mismatch",
            Self::PolicyChanged(_) => "policy-changed",
            Self::CatalogUnknown => "catalog-unknown",
            Self::DestinationMismatch => "destination-mismatch",
            Self::NotClassified(_) => "not-classified",
            Self::KindMismatch => "kind-mismatch",
            Self::CapabilityMismatch => "capability-mismatch",
            Self::ClassMismatch => "class-mismatch",
            Self::ParamsMismatch => "params-mismatch",
            Self::ApprovalNotCheckable => "approval-not-checkable",
            Self::ApprovalNotOpen => "approval-not-open",
            Self::ApprovalUsed => "approval-used",
            Self::ObligationUnsupported(_) => "obligation-unsupported",
            Self::ChannelBindingMissing => "channel-binding-missing",
            Self::ChannelBindingMismatch => "channel-binding-mismatch",
            Self::Replayed => "replayed",
            Self::ReplayForgotten => "replay-forgotten",
            Self::ReplayStoreFull => "replay-store-full",
            Self::ReplayStoreUnavailable => "replay-store-unavailable",
            Self::NotRecorded(_) => "not-recorded",
            Self::ReceiptNotSigned(_) => "receipt-not-signed",
        }
    }

    /// HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RequestNotCanonical(_) | Self::FieldRepeated(_) | Self::BodyBroken => {
                StatusCode::BAD_REQUEST
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::PolicyChanged(_) => StatusCode::CONFLICT,
            Self::StateStale
            | Self::StateUnavailable(_)
            | Self::StateBehind { .. }
            | Self::ReplayStoreFull
            | Self::ReplayStoreUnavailable
            | Self::NotRecorded(_)
            | Self::ReceiptNotSigned(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// The event that the refusal is.
    pub fn event(&self) -> Event {
        match self {
            Self::Envelope(writ_sae::Refusal::Expired) => Event::Expired,
            Self::Replayed | Self::ApprovalUsed | Self::ReplayForgotten => Event::Replayed,
            Self::Envelope(
                writ_sae::Refusal::SignatureInvalid
                | writ_sae::Refusal::SignatureHighS
                | writ_sae::Refusal::NotCanonical
                | writ_sae::Refusal::Base64NotCanonical
                | writ_sae::Refusal::UnknownKey,
            )
            | Self::TargetMismatch
            | Self::MethodMismatch
            | Self::PathMismatch
            | Self::QueryMismatch
            | Self::FieldsMismatch
            | Self::BodyMismatch
            | Self::ParamsMismatch
            | Self::ChannelBindingMismatch => Event::Altered,
            _ => Event::Refused,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Envelope(inner) => return inner.fmt(f),
            Self::FieldRepeated(name) => {
                return write!(f, "the field {name} must occur at most once, in ASCII");
            }
            Self::ChainNotTrusted(why) => return f.write_str(why),
            Self::RequestNotCanonical(why) => {
                return write!(f, "the request has no canonical form: {why}");
            }
            Self::StateUnavailable(why) => {
                return write!(f, "this target cannot read its chain state: {why}");
            }
            Self::StateBehind { block, head } => {
                return write!(
                    f,
                    "decided at block {block}, this target has seen block {head}: send it again"
                );
            }
            Self::PolicyChanged(what) => {
                return write!(
                    f,
                    "the registry names another {what} by now: decide anew, the envelope was not used up"
                );
            }
            Self::NotClassified(why) => {
                return write!(
                    f,
                    "the caller's catalog does not classify the request: {why}"
                );
            }
            Self::ObligationUnsupported(bits) => {
                return write!(f, "this target cannot fulfil the obligations {bits:#x}");
            }
            Self::NotRecorded(why) => {
                return write!(f, "the verdict could not be recorded: {why}");
            }
            Self::ReceiptNotSigned(why) => {
                return write!(f, "this target cannot sign a receipt: {why}");
            }
            Self::EnvelopeMissing => {
                "the request carries no envelope (field SAE): send it through a sidecar or gateway"
            }
            Self::PeerUnknown => {
                "the caller is not authenticated: connect with an X.509-SVID, or through a hop that tells the PEP who is calling"
            }
            Self::CertificateMissing => {
                "kid is not this connection's certificate: send SAE-Certificate"
            }
            Self::StatusNotProved => {
                "the envelope binds a status response that is missing, another one, or not checkable here"
            }
            Self::KindNotServed => "act.kind is not one that this target serves",
            Self::TargetMismatch => "the request is not for the URI in sub",
            Self::MethodMismatch => "the request's method is not act.http.method",
            Self::PathMismatch => "the request's path is not act.http.path",
            Self::QueryMismatch => "the request's query is not the one that was decided",
            Self::FieldsMismatch => "the request's header fields are not those that were decided",
            Self::BodyMismatch => "the request's body is not the one that was decided",
            Self::BodyTooLarge => "the body is longer than this target binds",
            Self::BodyBroken => "the body broke off",
            Self::BodyLate => "the body did not arrive in time",
            Self::TrustDomainUnknown => "no chain is configured here for the caller's trust domain",
            Self::ChainMismatch => {
                "pol.chain_id is not the chain configured here for the caller's trust domain"
            }
            Self::EvmProfileUnknown => "pol.evm is not a profile that this target knows",
            Self::StateStale => "this target's chain state is too old to decide on",
            Self::StateTooOld => "pol.block is too far behind this target's head: decide anew",
            Self::AgentUnknown => "the caller is not in the agent registry",
            Self::AgentPaused => "the caller is paused in the agent registry",
            Self::AgentRevoked => "the caller is revoked in the agent registry",
            Self::PolicyPaused => "the caller's policy is paused",
            Self::ModelMismatch => "mod.sha256 is not the model registered for the caller",
            Self::CatalogUnknown => "this target does not hold the caller's catalog",
            Self::DestinationMismatch => {
                "by the caller's catalog the request does not lead to this target"
            }
            Self::KindMismatch => "by the caller's catalog the request is another kind of action",
            Self::CapabilityMismatch => {
                "by the caller's catalog the request needs another capability"
            }
            Self::ClassMismatch => "by the caller's catalog the request's data class is higher",
            Self::ParamsMismatch => "by the caller's catalog the parameters are other ones",
            Self::ApprovalNotCheckable => "this target cannot check approvals",
            Self::ApprovalNotOpen => "the approval is not open for this action",
            Self::ApprovalUsed => "the approval was used before",
            Self::ChannelBindingMissing => "the envelope is not bound to this connection (ctx.cb)",
            Self::ChannelBindingMismatch => "the envelope is bound to another connection",
            Self::Replayed => "the envelope was used before",
            Self::ReplayForgotten => {
                "this target's clock went back, so the envelope may have been used before"
            }
            Self::ReplayStoreFull => "this target's replay store is full: try again later",
            Self::ReplayStoreUnavailable => "this target's replay store does not answer",
        };
        f.write_str(text)
    }
}
