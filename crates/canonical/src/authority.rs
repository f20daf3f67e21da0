//! Authority: host and port in one spelling.

use std::net::{Ipv4Addr, Ipv6Addr};

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

use crate::{Refusal, Scheme};

/// Host and port, canonical: lower-case A-labels, dotted-decimal IPv4, or RFC 5952 IPv6 in brackets;
/// the port is always explicit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// `example.com`, `192.0.2.1` or `[2001:db8::1]`.
    pub host: String,
    /// 1 to 65535; the scheme's default when the sender named none.
    pub port: u16,
}

impl Authority {
    /// Reads `host [":" port]` (RFC 3986 section 3.2 without userinfo).
    ///
    /// # Errors
    /// One of the `authority-*` refusals.
    pub fn parse(text: &str, scheme: Scheme) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Err(Refusal::AuthorityMissing);
        }
        if text.contains('@') {
            return Err(Refusal::AuthorityUserinfo);
        }
        let (host, port) = split(text)?;
        let port = match port {
            None => scheme.default_port(),
            Some(digits) => parse_port(digits)?,
        };
        Ok(Self {
            host: canonical_host(host)?,
            port,
        })
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), Refusal> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(Refusal::AuthorityHost)?;
        let (host, rest) = text
            .split_at_checked(end + 1)
            .ok_or(Refusal::AuthorityHost)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(Refusal::AuthorityHost),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Ok((host, Some(port))),
        Some(_) => Err(Refusal::AuthorityIpForm),
        None => Ok((text, None)),
    }
}

fn parse_port(digits: &str) -> Result<u16, Refusal> {
    let plain = !digits.is_empty()
        && !digits.starts_with('0')
        && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain {
        return Err(Refusal::AuthorityPort);
    }
    digits.parse().map_err(|_| Refusal::AuthorityPort)
}

fn canonical_host(host: &str) -> Result<String, Refusal> {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| Refusal::AuthorityIpForm)?;
        if address.to_ipv4_mapped().is_some() {
            return Err(Refusal::AuthorityIpForm);
        }
        return Ok(format!("[{address}]"));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(address.to_string());
    }
    if host.len() > 1 && host.ends_with('.') {
        return Err(Refusal::AuthorityTrailingDot);
    }
    let name = Uts46::new()
        .to_ascii(
            host.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map_err(|_| Refusal::AuthorityHost)?
        .into_owned();
    // WHATWG "ends in a number": resolvers read 127.1, 0x7f.1 and 2130706433 as addresses. Checked
    // after IDNA, which maps full-width digits to ASCII ones.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric {
        return Err(Refusal::AuthorityIpForm);
    }
    Ok(name)
}
