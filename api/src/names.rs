//! Labels, annotations, and names made of other names.

use sha2::{Digest, Sha256};

/// Label: on a namespace `enabled`, on a pod `true` or `false`.
pub const INJECT: &str = "writ.dev/inject";
/// Label of a namespace whose pods may say `writ.dev/inject=false`.
pub const OPT_OUT: &str = "writ.dev/opt-out";
/// Annotation of a pod: which AgentPolicy applies, where several select it.
pub const POLICY: &str = "writ.dev/policy";
/// Label of what a program keeps.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`], and the field manager, of what the operator keeps.
pub const OPERATOR: &str = "writ-operator";

/// Longest name of a ConfigMap that we make, in bytes: a DNS label.
const MAX_NAME: usize = 63;
/// Hex digits of the hash in a shortened name.
const HASH_DIGITS: usize = 12;

/// Name of the ConfigMap with the configuration of the sidecars that run as `service_account` under
/// the AgentPolicy `policy`: `writ-<policy>-<service account>`.
///
/// Names of different pairs differ: where the pair cannot be read back from the plain form (it is
/// longer than 63 bytes, or a hyphen or dot leaves open where the policy's name ends), the name ends
/// in the first 12 hex digits of the SHA-256 of `<policy>/<service account>`. So it does for a policy
/// that is called `seen`: `writ-seen-<policy>` is what relays keep.
#[must_use]
pub fn config_map_name(policy: &str, service_account: &str) -> String {
    let plain = format!("writ-{policy}-{service_account}");
    let unambiguous = policy != "seen" && !policy.contains('-') && !service_account.contains('-');
    let hashed_form = service_account.len() == HASH_DIGITS
        && service_account.bytes().all(|b| b.is_ascii_hexdigit());
    if plain.len() <= MAX_NAME && unambiguous && !hashed_form {
        return plain;
    }
    let digest = Sha256::digest(format!("{policy}/{service_account}"));
    let mut hash = String::with_capacity(HASH_DIGITS);
    for byte in digest.iter().take(HASH_DIGITS / 2) {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    let room = MAX_NAME - HASH_DIGITS - 1;
    let mut end = plain.len().min(room);
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    let cut = plain.get(..end).unwrap_or_default();
    format!("{}-{hash}", cut.trim_end_matches(['-', '.']))
}

/// SPIFFE ID of the pods that run as a service account.
#[must_use]
pub fn spiffe_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

/// Namespace and service account of a SPIFFE ID of `trust_domain`, [`spiffe_id`]'s inverse.
#[must_use]
pub fn namespace_and_account<'a>(
    trust_domain: &str,
    spiffe_id: &'a str,
) -> Option<(&'a str, &'a str)> {
    let path = spiffe_id
        .strip_prefix("spiffe://")?
        .strip_prefix(trust_domain)?;
    let (namespace, account) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
    let plain = |part: &str| !part.is_empty() && !part.contains('/');
    (plain(namespace) && plain(account)).then_some((namespace, account))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_name_reads_as_policy_and_account() {
        assert_eq!(config_map_name("buyers", "agent"), "writ-buyers-agent");
    }

    #[test]
    fn pairs_that_would_read_alike_get_different_names() {
        assert_ne!(config_map_name("a-b", "c"), config_map_name("a", "b-c"));
        assert_ne!(
            config_map_name("a", "bc"),
            config_map_name("a", "b-c").replace('-', "")
        );
    }

    #[test]
    fn no_configuration_has_the_plain_name_of_what_relays_keep() {
        assert_eq!(
            config_map_name("seen", "agent").len(),
            "writ-seen-agent-".len() + 12
        );
    }

    #[test]
    fn a_spiffe_id_reads_back_and_others_do_not() {
        let id = spiffe_id("example.org", "shop", "buyer");
        assert_eq!(id, "spiffe://example.org/ns/shop/sa/buyer");
        assert_eq!(
            namespace_and_account("example.org", &id),
            Some(("shop", "buyer"))
        );
        for other in [
            "spiffe://example.com/ns/shop/sa/buyer",
            "spiffe://example.org.evil/ns/shop/sa/buyer",
            "spiffe://example.org/ns//sa/buyer",
            "spiffe://example.org/ns/shop/sa/buyer/x",
            "spiffe://example.org/ns/a/b/sa/buyer",
            "https://example.org/ns/shop/sa/buyer",
        ] {
            assert_eq!(namespace_and_account("example.org", other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn names_are_dns_labels_and_differ_between_pairs(
            a in ("[a-z0-9]([-a-z0-9]{0,70}[a-z0-9])?", "[a-z0-9]([-a-z0-9]{0,70}[a-z0-9])?"),
            b in ("[a-z0-9]([-a-z0-9]{0,70}[a-z0-9])?", "[a-z0-9]([-a-z0-9]{0,70}[a-z0-9])?"),
        ) {
            let name = config_map_name(&a.0, &a.1);
            prop_assert!(name.len() <= MAX_NAME);
            prop_assert!(!name.ends_with('-'));
            prop_assert_eq!(name == config_map_name(&b.0, &b.1), a == b);
        }
    }
}
