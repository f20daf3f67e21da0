//! What went wrong with the Kubernetes API, and what to do about it.

use kube::Resource;
use serde_json::Value;

use crate::error::CliError;

/// What is asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    verb: &'static str,
    /// `agentpolicies.writ.dev`.
    resource: String,
    namespace: Option<String>,
    ours: bool,
}

impl Ask {
    /// `verb` on a kind of object, in a namespace or in all.
    pub fn of<K: Resource<DynamicType = ()>>(verb: &'static str, namespace: Option<&str>) -> Self {
        let group = K::group(&());
        let plural = K::plural(&());
        let resource = if group.is_empty() {
            plural.into_owned()
        } else {
            format!("{plural}.{group}")
        };
        Self {
            verb,
            resource,
            namespace: namespace.map(str::to_owned),
            ours: group == writ_api::GROUP,
        }
    }

    /// For an action that no kind of object stands for, such as `pods/proxy`.
    pub fn plain(verb: &'static str, resource: &str, namespace: Option<&str>) -> Self {
        Self {
            verb,
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            ours: false,
        }
    }

    /// `agentpolicies.writ.dev`.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// For progress.
    pub fn doing(&self) -> String {
        format!("{} {}{}", self.verb, self.resource, self.place())
    }

    fn place(&self) -> String {
        self.namespace
            .as_ref()
            .map_or_else(String::new, |namespace| {
                format!(" in namespace {namespace}")
            })
    }

    fn can_i(&self) -> String {
        let namespace = self.namespace.as_ref();
        let place = namespace.map_or_else(
            || " --all-namespaces".to_owned(),
            |namespace| format!(" -n {namespace}"),
        );
        // `pods/proxy` would be a pod of that name.
        match self.resource.split_once('/') {
            Some((resource, part)) if !resource.is_empty() => {
                let verb = self.verb;
                format!("kubectl auth can-i {verb} {resource} --subresource={part}{place}")
            }
            _ => format!("kubectl auth can-i {} {}{place}", self.verb, self.resource),
        }
    }
}

fn cluster(what: impl Into<String>, fix: impl Into<String>) -> CliError {
    CliError::Cluster {
        what: what.into(),
        fix: fix.into(),
    }
}

/// The configuration cannot be used.
pub fn config(error: &dyn std::error::Error) -> CliError {
    cluster(
        format!("no cluster to talk to: {}", causes(error)),
        "name a kubeconfig (--kubeconfig FILE or KUBECONFIG) and one of its contexts (--context; kubectl config \
         get-contexts lists them)",
    )
}

/// No client can be made of the configuration.
pub fn client(server: &str, error: &kube::Error) -> CliError {
    cluster(
        format!("no client for {server}: {}", causes(error)),
        "check the certificates and credentials of this context: kubectl config view --minify",
    )
}

/// Whether an object is not there, though its kind is.
pub fn is_absent(error: &kube::Error) -> bool {
    // Of a kind that it does not know the API server says no more than "404 page not found".
    matches!(error, kube::Error::Api(status) if status.code == 404 && status.details.is_some())
}

/// What was asked failed.
pub fn api(server: &str, ask: &Ask, error: kube::Error) -> CliError {
    let kube::Error::Api(status) = &error else {
        return unreachable(server, &error);
    };
    match status.code {
        401 => cluster(
            format!("{server} does not know who you are: {}", status.message),
            "log in again, or name another context (--context)",
        ),
        403 => forbidden(ask, &status.message),
        404 if ask.ours => cluster(
            format!("the cluster does not know {}", ask.resource),
            "install Writ: `writ init`; its definitions alone: kubectl apply --server-side -f manifests/crds",
        ),
        404 => cluster(
            format!("the cluster does not know {}", ask.resource),
            "what serves it is not installed; see `writ doctor`",
        ),
        _ => cluster(
            format!(
                "cannot {} {}{}: {}",
                ask.verb,
                ask.resource,
                ask.place(),
                status.message
            ),
            "see the API server's own message above",
        ),
    }
}

/// What the API server itself says, where an answer is not that of whom it was to be passed on to.
pub fn status_message(answer: &str) -> Option<String> {
    let status: Value = serde_json::from_str(answer).ok()?;
    let is_status = status.get("kind").and_then(Value::as_str) == Some("Status");
    let message = status.get("message").and_then(Value::as_str);
    message.filter(|_| is_status).map(str::to_owned)
}

/// A right is missing.
pub fn forbidden(ask: &Ask, message: &str) -> CliError {
    // Where the answer was asked for as it is, its message stands in a Status.
    let said = status_message(message);
    let message = said.as_deref().unwrap_or(message);
    let message = message.lines().next().unwrap_or_default();
    let (verb, resource, place) = (ask.verb, &ask.resource, ask.place());
    cluster(
        format!("you may not {verb} {resource}{place}: {message}"),
        format!(
            "ask for the verb `{verb}` on `{resource}`{place}; check with `{}`",
            ask.can_i()
        ),
    )
}

fn unreachable(server: &str, error: &kube::Error) -> CliError {
    match error {
        kube::Error::SerdeError(_) => cluster(
            format!(
                "{server} answers with an object of another form: {}",
                causes(error)
            ),
            "its CRDs are of another version: upgrade `writ` or the CRDs, so that both are the same",
        ),
        kube::Error::Auth(_) => cluster(
            format!("cannot log in to {server}: {}", causes(error)),
            "run the log-in command of this context by hand: kubectl config view --minify shows it",
        ),
        _ => CliError::Unreachable {
            what: format!("cannot reach {server}: {}", causes(error)),
            fix: "check that the cluster runs and that this is the context you mean: kubectl cluster-info, --context"
                .to_owned(),
        },
    }
}

/// An error with its causes, each said once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;
    use writ_api::AgentPolicy;

    fn failed(code: u16, message: &str) -> kube::Error {
        let status: Status = serde_json::from_value(
            serde_json::json!({"status": "Failure", "code": code, "message": message, "reason": "x"}),
        )
        .unwrap();
        kube::Error::Api(Box::new(status))
    }

    fn said(code: u16) -> String {
        let ask = Ask::of::<AgentPolicy>("list", Some("shop"));
        api("https://a", &ask, failed(code, "no")).to_string()
    }

    #[test]
    fn a_missing_right_is_named_with_how_to_check_it() {
        let said = said(403);
        assert!(
            said.contains("verb `list` on `agentpolicies.writ.dev`"),
            "{said}"
        );
        assert!(
            said.contains("kubectl auth can-i list agentpolicies.writ.dev -n shop"),
            "{said}"
        );
    }

    #[test]
    fn missing_definitions_are_named_with_how_to_install_them() {
        assert!(said(404).contains("manifests/crds"));
    }

    #[test]
    fn an_object_that_is_not_there_is_told_from_a_kind_that_is_not_there() {
        assert!(!is_absent(&failed(404, "404 page not found")));
        let mut there = failed(404, "not found");
        if let kube::Error::Api(status) = &mut there {
            status.details = Some(serde_json::from_value(serde_json::json!({})).unwrap());
        }
        assert!(is_absent(&there));
    }
}
