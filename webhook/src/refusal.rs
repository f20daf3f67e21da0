//! Refusals: values with a stable code, the field, the reason, and the fix.

use std::fmt;

/// Why something is refused. The text of a code never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The pod shares the node's network.
    HostNetwork,
    /// The pod sees the node's processes.
    HostPid,
    /// The pod shares the node's memory segments and queues.
    HostIpc,
    /// The pod's containers see each other's processes.
    SharedProcessNamespace,
    /// The pod has its own user namespace, in which the sidecar's uid does not exist.
    UserNamespace,
    /// A Windows pod.
    Windows,
    /// A privileged container.
    Privileged,
    /// A capability with which the redirection can be got around.
    Capability,
    /// `allowPrivilegeEscalation: true`.
    PrivilegeEscalation,
    /// `procMount: Unmasked`.
    ProcMount,
    /// `seccompProfile: Unconfined`.
    Seccomp,
    /// A setting of the kernel that is not on the list.
    Sysctl,
    /// A device that could reach the network past the kernel's rules.
    Device,
    /// Name servers of the pod's own.
    NameServers,
    /// A uid of the range that sidecars draw from.
    ReservedUser,
    /// A gid of that range.
    ReservedGroup,
    /// A hostPath volume onto files of the sidecar, of SPIRE or of the node's runtime.
    HostPath,
    /// A volume for which the node itself reaches a server that the pod names.
    VolumeKind,
    /// The pod mounts the Workload API itself, or gets an identity in another way.
    IdentitySocket,
    /// The pod reads a sidecar's configuration.
    SidecarConfig,
    /// Another mesh's sidecar.
    OtherMesh,
    /// Ephemeral containers.
    EphemeralContainers,
    /// `kubectl exec`.
    Exec,
    /// `kubectl attach`.
    Attach,
    /// `kubectl port-forward`.
    PortForward,
    /// Two containers of one name.
    DuplicateName,
    /// A container with a name of ours that the webhook did not make.
    ReservedName,
    /// A volume of ours that the webhook did not make, or a mount of one.
    ReservedVolume,
    /// A mount at a path of ours.
    ReservedPath,
    /// A port of the sidecar's.
    ReservedPort,
    /// A probe, or a hook, that the node would send somewhere else than to the pod.
    ProbeHost,
    /// A probe whose port has no number.
    ProbePort,
    /// Metrics that a sidecar cannot let a scraper ask for.
    Scrape,
    /// More probes than a sidecar answers.
    TooManyProbes,
    /// An annotation of ours that does not exist.
    UnknownAnnotation,
    /// An annotation's value cannot be used.
    AnnotationValue,
    /// The label `writ.dev/inject` has another value than `true` or `false`.
    InjectValue,
    /// The namespace does not let its pods opt out.
    OptOut,
    /// A field that this version of the webhook does not know.
    UnknownField,
    /// The pod has no sidecar.
    NotInjected,
    /// The final pod is not what the webhook makes of it.
    NotAsInjected,
    /// A change to a running pod that would take it out of the sidecar's hands.
    Immutable,
    /// No AgentPolicy selects the pod.
    NoPolicy,
    /// The policy that the pod names does not select it, or the one that selects it yields to an
    /// older one.
    PolicyChoice,
    /// AgentPolicies are not known yet.
    PoliciesUnknown,
    /// The request is not what the webhook was registered for.
    Malformed,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 46] = [
        Self::HostNetwork,
        Self::HostPid,
        Self::HostIpc,
        Self::SharedProcessNamespace,
        Self::UserNamespace,
        Self::Windows,
        Self::Privileged,
        Self::Capability,
        Self::PrivilegeEscalation,
        Self::ProcMount,
        Self::Seccomp,
        Self::Sysctl,
        Self::Device,
        Self::NameServers,
        Self::ReservedUser,
        Self::ReservedGroup,
        Self::HostPath,
        Self::VolumeKind,
        Self::IdentitySocket,
        Self::SidecarConfig,
        Self::OtherMesh,
        Self::EphemeralContainers,
        Self::Exec,
        Self::Attach,
        Self::PortForward,
        Self::DuplicateName,
        Self::ReservedName,
        Self::ReservedVolume,
        Self::ReservedPath,
        Self::ReservedPort,
        Self::ProbeHost,
        Self::ProbePort,
        Self::Scrape,
        Self::TooManyProbes,
        Self::UnknownAnnotation,
        Self::AnnotationValue,
        Self::InjectValue,
        Self::OptOut,
        Self::UnknownField,
        Self::NotInjected,
        Self::NotAsInjected,
        Self::Immutable,
        Self::NoPolicy,
        Self::PolicyChoice,
        Self::PoliciesUnknown,
        Self::Malformed,
    ];

    /// The stable kebab-case code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(self) -> &'static str {
        self.texts().1
    }

    #[rustfmt::skip]
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::HostNetwork => ("host-network", "remove hostNetwork, or run the pod in a namespace that is not opted in"),
            Self::HostPid => ("host-pid", "remove hostPID"),
            Self::HostIpc => ("host-ipc", "remove hostIPC"),
            Self::SharedProcessNamespace => ("shared-process-namespace", "remove shareProcessNamespace"),
            Self::UserNamespace => ("user-namespace", "remove hostUsers: false"),
            Self::Windows => ("windows", "run the agent on Linux"),
            Self::Privileged => ("privileged", "remove privileged: true"),
            Self::Capability => ("capability", "remove it from capabilities.add"),
            Self::PrivilegeEscalation => ("privilege-escalation", "set allowPrivilegeEscalation: false, or leave it out"),
            Self::ProcMount => ("proc-mount", "remove procMount, or set it to Default"),
            Self::Seccomp => ("seccomp", "set seccompProfile.type: RuntimeDefault, or leave it out"),
            Self::Sysctl => ("sysctl", "remove it from securityContext.sysctls"),
            Self::Device => ("device", "remove it, or have its name added to the webhook's --devices if it cannot reach a network"),
            Self::NameServers => ("name-servers", "remove dnsConfig.nameservers; the sidecar asks the cluster's DNS"),
            Self::ReservedUser => ("reserved-user", "choose a uid below 2000000000"),
            Self::ReservedGroup => ("reserved-group", "choose a gid below 2000000000"),
            Self::HostPath => ("host-path", "mount a narrower folder, or a volume of another kind"),
            Self::VolumeKind => ("volume-kind", "use a PersistentVolumeClaim, or a volume that reaches no server"),
            Self::IdentitySocket => ("identity-socket", "remove the volume; the sidecar holds the pod's identity"),
            Self::SidecarConfig => ("sidecar-config", "give the container a ConfigMap of its own"),
            Self::OtherMesh => ("other-mesh", "turn the other mesh's injection off for this pod"),
            Self::EphemeralContainers => ("ephemeral-containers", "debug a copy of the pod in a namespace that is not opted in"),
            Self::Exec => ("exec", "read logs, or debug a copy of the pod in a namespace that is not opted in"),
            Self::Attach => ("attach", "read logs, or debug a copy of the pod in a namespace that is not opted in"),
            Self::PortForward => ("port-forward", "call the pod as its callers do, or debug a copy of it in a namespace that is not opted in"),
            Self::DuplicateName => ("duplicate-name", "rename one of the containers"),
            Self::ReservedName => ("reserved-name", "rename the container, or leave the sidecar's containers out of the manifest: the webhook adds them"),
            Self::ReservedVolume => ("reserved-volume", "use another volume, of another name"),
            Self::ReservedPath => ("reserved-path", "mount the volume somewhere else"),
            Self::ReservedPort => ("reserved-port", "choose another port; 15801, 15806, 15820, 15821 and 15853 are the sidecar's unless the installation says otherwise"),
            Self::ProbeHost => ("probe-host", "remove host, so that the pod itself is asked"),
            Self::ProbePort => ("probe-port", "give the probe a number between 1 and 65535, or the name of a port of its container"),
            Self::Scrape => ("scrape", "name one port and path over plain HTTP, in prometheus.io/port and prometheus.io/path, or several as `9090/metrics` in writ.dev/scrape"),
            Self::TooManyProbes => ("too-many-probes", "remove probes, or headers from them"),
            Self::UnknownAnnotation => ("unknown-annotation", "use writ.dev/log-level, writ.dev/cpu, writ.dev/memory, writ.dev/policy or writ.dev/scrape"),
            Self::AnnotationValue => ("annotation-value", "correct the value"),
            Self::InjectValue => ("inject-value", "set the label to \"true\", or to \"false\" where the namespace allows it"),
            Self::OptOut => ("opt-out", "remove the label, or label the namespace writ.dev/opt-out=allowed"),
            Self::UnknownField => ("unknown-field", "remove the field, or upgrade Writ to a version that knows it"),
            Self::NotInjected => ("not-injected", "check that the MutatingWebhookConfiguration `writ` exists and selects the pod; labels must be there when the pod is created"),
            Self::NotAsInjected => ("not-as-injected", "create the pod again; if it stays, exclude the pod from the other admission webhook that changed it"),
            Self::Immutable => ("immutable", "delete the pod and create it anew"),
            Self::NoPolicy => ("no-policy", "create an AgentPolicy in the namespace whose selector matches the pod's labels; a workload then tries again by itself"),
            Self::PolicyChoice => ("policy-choice", "name one that selects the pod in the annotation writ.dev/policy"),
            Self::PoliciesUnknown => ("policies-unknown", "try again; if it stays, check that Writ's CRDs are installed and that the webhook may list agentpolicies.writ.dev"),
            Self::Malformed => ("malformed", "compare the webhook configurations with those that Writ was installed with"),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The field, as `spec.containers[app].securityContext.privileged`.
    pub field: String,
    /// Why it is refused.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            field,
            reason,
        } = self;
        write!(f, "[{code}] {field}: {reason}. Fix: {}", code.fix())
    }
}

/// All refusals of one object; it is admitted when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals(Vec<Refusal>);

impl Refusals {
    /// A single refusal.
    #[must_use]
    pub fn one(code: Code, field: impl Into<String>, reason: impl Into<String>) -> Self {
        let mut refusals = Self::default();
        refusals.add(code, field, reason);
        refusals
    }

    /// Adds a refusal.
    pub fn add(&mut self, code: Code, field: impl Into<String>, reason: impl Into<String>) {
        let refusal = Refusal {
            code,
            field: field.into(),
            reason: reason.into(),
        };
        if !self.0.contains(&refusal) {
            self.0.push(refusal);
        }
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: Self) {
        for other in others.0 {
            self.add(other.code, other.field, other.reason);
        }
    }

    /// Whether nothing is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The refusals, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Refusal> {
        self.0.iter()
    }

    /// `value` when nothing is refused.
    ///
    /// # Errors
    /// The refusals, when there are any.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{refusal}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_text_of_its_own_and_a_fix() {
        let texts: std::collections::BTreeSet<&str> =
            Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| !code.fix().is_empty()));
    }

    #[test]
    fn a_refusal_says_its_code_field_reason_and_fix() {
        let refusals = Refusals::one(Code::HostPid, "spec.hostPID", "the pod sees the node");
        assert_eq!(
            refusals.to_string(),
            "[host-pid] spec.hostPID: the pod sees the node. Fix: remove hostPID"
        );
    }
}
