//! Forgets the flows that are older than the rules.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

const NETLINK_NETFILTER: i32 = 12;
const NLMSG_ERROR: u16 = 2;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`
const CT_DELETE: u16 = (1 << 8) | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`
const REQUEST_WITH_ACK: u16 = 1 | 4;
/// A netlink header and a netfilter header: a delete that names no tuple empties the table.
const LENGTH: u32 = 20;

/// Empties the connection tracker of the current network namespace, both families.
///
/// nat looks at the first packet of a flow only: a flow that was there before the rules would go
/// on past them.
pub(crate) fn flush() -> io::Result<()> {
    let socket = Socket::new(
        Domain::from(nix::libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_NETFILTER)),
    )?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::with_capacity(LENGTH as usize);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(CT_DELETE.to_ne_bytes());
    request.extend(REQUEST_WITH_ACK.to_ne_bytes());
    // Sequence 1, from the kernel's choice of port; family unspecified, version 0, resource 0.
    request.extend(1u32.to_ne_bytes());
    request.extend([0; 8]);
    // Without an address a netlink socket sends to the kernel.
    socket.send(&request)?;
    let mut answer = [0u8; 64];
    let length = io::Read::read(&mut &socket, &mut answer)?;
    acknowledged(answer.get(..length).unwrap_or_default())
}

/// `nlmsghdr` and the errno of `nlmsgerr`, 0 for success (netlink(7)).
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is no acknowledgement",
        )
    };
    let kind = answer
        .get(4..6)
        .and_then(|b| b.try_into().ok())
        .map(u16::from_ne_bytes);
    let errno = answer
        .get(16..20)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, errno) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(Errno::from_raw(errno.saturating_neg()).into()),
        _ => Err(malformed()),
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

    fn answer(kind: u16, errno: i32) -> Vec<u8> {
        let mut bytes = vec![0; 36];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[16..20].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_acknowledgement_is_success() {
        acknowledged(&answer(NLMSG_ERROR, 0)).unwrap();
    }

    #[test]
    fn a_refusal_by_the_kernel_is_its_errno() {
        let error = acknowledged(&answer(NLMSG_ERROR, -1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_short_or_other_answer_is_no_success() {
        assert!(acknowledged(&[]).is_err());
        assert!(acknowledged(&answer(3, 0)).is_err());
        assert!(acknowledged(&answer(NLMSG_ERROR, 0)[..18]).is_err());
    }
}
