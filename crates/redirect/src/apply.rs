//! Installs the rules in the network namespace of the caller.

use std::fs;
use std::path::Path;

use crate::error::{Family, RedirectError};
use crate::iptables::Backend;
use crate::readback::{differences, replacing};
use crate::{Ipv6, Redirect, conntrack, parse_uid_map, rules};

/// Bit of `CAP_NET_ADMIN` in the capability sets (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;
/// IPv6 addresses of the calling thread's network namespace, which is not always its process's.
pub(crate) const ADDRESSES_V6: &str = "/proc/thread-self/net/if_inet6";

/// What was installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The state of IPv4.
    pub v4: FamilyState,
    /// The state of IPv6.
    pub v6: FamilyState,
}

/// How one family is kept from getting past the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyState {
    /// The rules were installed by this program.
    Installed(&'static str),
    /// The kernel does not speak it.
    Absent,
}

/// Installs the rules for both families, replacing those of an earlier call, and removes flows
/// that are older. Other software's rules stay, behind ours.
///
/// Each table changes in one transaction; the dropping rules stand before the redirecting ones.
/// When it fails in between, the pod must not start: the caller is an init container.
///
/// # Errors
/// Each names what to change in the pod or on the node.
pub fn apply(redirect: &Redirect) -> Result<Applied, RedirectError> {
    require_net_admin(&read("/proc/self/status")?)?;
    let redirect = redirect
        .clone()
        .with_uids(parse_uid_map(&read("/proc/self/uid_map")?)?)?;
    let ruleset = rules(&redirect);
    let v4 = install(Family::V4, &ruleset.v4)?;
    let v6 = match (kernel_has_ipv6(), redirect.ipv6()) {
        (true, _) => FamilyState::Installed(install(Family::V6, &ruleset.v6)?),
        (false, Ipv6::Off) => FamilyState::Absent,
        (false, Ipv6::On) => return Err(RedirectError::NoIpv6),
    };
    conntrack::flush().map_err(RedirectError::Conntrack)?;
    Ok(Applied {
        v4: FamilyState::Installed(v4),
        v6,
    })
}

fn install(family: Family, ruleset: &str) -> Result<&'static str, RedirectError> {
    let backend = Backend::probe(family, ruleset)?;
    backend.install(&replacing(ruleset, &backend.saved()?))?;
    read_back(family, backend, ruleset)?;
    Ok(backend.program())
}

/// Compares the installed rules with the expected ones.
pub(crate) fn read_back(
    family: Family,
    backend: Backend,
    ruleset: &str,
) -> Result<(), RedirectError> {
    let differences = differences(ruleset, &backend.saved()?);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(RedirectError::Differs {
            family,
            differences,
        })
    }
}

pub(crate) fn kernel_has_ipv6() -> bool {
    Path::new(ADDRESSES_V6).exists()
}

pub(crate) fn read(path: &str) -> Result<String, RedirectError> {
    fs::read_to_string(path).map_err(|source| RedirectError::Io {
        what: path.to_owned(),
        source,
    })
}

/// `status` is the text of `/proc/self/status`.
pub(crate) fn require_net_admin(status: &str) -> Result<(), RedirectError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if effective & (1 << CAP_NET_ADMIN) == 0 {
        Err(RedirectError::NotNetAdmin)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;

    #[test]
    fn a_process_with_net_admin_may_apply() {
        require_net_admin("Name:\tx\nCapEff:\t0000000000001000\n").unwrap();
    }

    #[test]
    fn a_process_without_net_admin_is_told_which_setting_it_lacks() {
        for status in ["CapEff:\t00000000a80425fb\n", "CapEff:\tzz\n", ""] {
            let error = require_net_admin(status).unwrap_err();
            assert!(error.to_string().contains("securityContext.capabilities"));
        }
    }
}
