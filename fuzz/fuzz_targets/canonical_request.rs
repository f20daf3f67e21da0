//! Whatever is accepted is its own canonical form.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use writ_canonical::{Limits, RawHead, Scheme, canonicalize};

fuzz_target!(|input: (bool, String, String, String, Vec<(String, Vec<u8>)>)| {
    let (tls, method, authority, path_and_query, fields) = input;
    let Ok(method) = method.parse::<Method>() else { return };
    let headers: HeaderMap = fields
        .iter()
        .filter_map(|(n, v)| Some((HeaderName::from_bytes(n.as_bytes()).ok()?, HeaderValue::from_bytes(v).ok()?)))
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        });
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    let raw = RawHead { scheme, method: &method, authority: &authority, path_and_query: &path_and_query, headers: &headers };
    let Ok(first) = canonicalize(raw, &Limits::default()) else { return };
    let (authority, path_and_query, headers) = (first.authority(), first.path_and_query(), first.header_map());
    let raw = RawHead { scheme, method: &method, authority: &authority, path_and_query: &path_and_query, headers: &headers };
    assert_eq!(canonicalize(raw, &Limits::default()), Ok(first));
});
