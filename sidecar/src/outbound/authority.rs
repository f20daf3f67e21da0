//! Whom a request names.

use http::header::HOST;
use http::{HeaderMap, Uri};
use writ_canonical::{Authority, Refusal, Scheme};

/// Refuses a request that names more than one authority (RFC 9112, sections 3.2 and 3.2.2): what
/// is decided and what a client or log believes was asked must be the same.
pub(super) fn one_authority(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return Ok(());
    };
    if hosts.next().is_some() {
        return Err(Refusal::DuplicateField {
            name: HOST.to_string(),
        });
    }
    let Some(authority) = uri.authority() else {
        return Ok(());
    };
    let host = host.to_str().map_err(|_| Refusal::AuthorityHost)?;
    // The same default port for both: only a difference between them matters here.
    let parse = |text| Authority::parse(text, Scheme::Http);
    match parse(authority.as_str())? == parse(host)? {
        true => Ok(()),
        false => Err(Refusal::HostMismatch),
    }
}

/// The authority that the request names: its target's, else its Host.
pub(super) fn authority_of(uri: &Uri, headers: &HeaderMap) -> String {
    match uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uri: &str, hosts: &[&str]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        one_authority(&uri.parse().unwrap(), &headers)
            .err()
            .map(|refusal| refusal.code())
    }

    #[test]
    fn a_request_that_names_two_authorities_is_refused() {
        assert_eq!(
            refused("/a", &["one.example", "two.example"]),
            Some("duplicate-field")
        );
        assert_eq!(
            refused("/a", &["one.example", "one.example"]),
            Some("duplicate-field")
        );
        assert_eq!(
            refused("http://one.example/a", &["two.example"]),
            Some("host-mismatch")
        );
        assert_eq!(
            refused("http://one.example:81/a", &["one.example"]),
            Some("host-mismatch")
        );
    }

    #[test]
    fn one_authority_written_in_two_ways_is_one() {
        assert_eq!(refused("/a", &["one.example"]), None);
        assert_eq!(refused("http://one.example/a", &["ONE.example:80"]), None);
        assert_eq!(refused("http://one.example/a", &[]), None);
    }
}
