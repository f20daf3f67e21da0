//! The request as it leaves, and the response as it comes back.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use writ_canonical::CanonicalRequest;
use writ_catalog::model::Pep;
use writ_ledger::OutcomeResult;
use writ_sae::fields;

use crate::body::{Body, Watched};
use crate::gate::{Released, Sent};
use crate::hops::remove_hop_by_hop;
use crate::problem::REFUSAL;
use crate::upstream;

/// The request as it was decided, and nothing else of it.
pub(super) fn request(
    canonical: &CanonicalRequest,
    released: &Released,
    version: http::Version,
    body: Body,
) -> Request<Body> {
    let mut request = Request::new(body);
    if let Ok(method) = Method::from_bytes(canonical.method.as_bytes()) {
        *request.method_mut() = method;
    }
    *request.headers_mut() = canonical.header_map();
    let authority = canonical.authority();
    let uri = match version {
        http::Version::HTTP_2 => format!(
            "{}://{authority}{}",
            canonical.scheme.as_str(),
            canonical.path_and_query()
        ),
        _ => {
            if let Ok(host) = HeaderValue::from_str(&authority) {
                request.headers_mut().insert(HOST, host);
            }
            canonical.path_and_query()
        }
    };
    // The canonical path was parsed from a URI, so it is one.
    if let Ok(uri) = uri.parse() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.remove(CONTENT_LENGTH);
    let stamps = [
        (
            fields::SAE,
            released.envelope.as_ref().map(|sae| sae.as_str()),
        ),
        (
            fields::SAE_DENIAL,
            released.denial.as_ref().map(|denial| denial.as_str()),
        ),
        (fields::SAE_CERTIFICATE, released.certificate.as_deref()),
    ];
    for (name, value) in stamps {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.insert(name, value);
        }
    }
    request
}

/// The response, streamed as it comes; when it ends, so does the action.
pub(super) fn passed_on(
    response: Response<Incoming>,
    released: Released,
    proved: Option<Arc<upstream::Proved>>,
) -> Response<Body> {
    let refused = refused_by_pep(&response).is_some();
    let (mut parts, body) = response.into_parts();
    let receipt = parts
        .headers
        .remove(fields::SAE_RECEIPT)
        .and_then(|value| value.to_str().ok().map(str::to_owned));
    remove_hop_by_hop(&mut parts.headers);
    if let Ok(id) = HeaderValue::from_str(&released.decision_id) {
        parts.headers.insert("writ-decision", id);
    }
    let status = parts.status.as_u16();
    let watched = Watched::new(body, move |seen, trailers| {
        let final_receipt = trailers
            .and_then(|trailers| trailers.get(fields::SAE_RECEIPT))
            .and_then(|value| value.to_str().ok().map(str::to_owned));
        let mut sent = Sent::answered(status, &seen, final_receipt.or(receipt));
        if refused {
            sent.result = OutcomeResult::Refused;
        }
        released.close(sent, proved.as_ref().map(|proved| &proved.peer));
    });
    Response::from_parts(parts, watched.map_err(Into::into).boxed())
}

/// The code with which the target's PEP refused; the application cannot make one, since whatever
/// it answers bears a receipt.
fn refused_by_pep<B>(response: &Response<B>) -> Option<&str> {
    let headers = response.headers();
    if headers.contains_key(fields::SAE_RECEIPT) {
        return None;
    }
    headers.get(REFUSAL)?.to_str().ok()
}

/// Whether the target's PEP refused because it knows a newer policy than the decision was made on, or
/// not yet the block. The envelope was not used up, and nothing was done with the request. Without a PEP
/// it is the application that says so, which may have acted.
pub(super) fn is_to_be_decided_anew<B>(response: &Response<B>, pep: Pep) -> bool {
    pep != Pep::None
        && matches!(
            refused_by_pep(response),
            Some("policy-changed" | "state-behind")
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anew(code: &str, receipt: bool) -> bool {
        anew_at(code, receipt, Pep::Sidecar)
    }

    fn anew_at(code: &str, receipt: bool, pep: Pep) -> bool {
        let mut response = Response::new(());
        let code = HeaderValue::from_str(code).unwrap();
        response.headers_mut().insert(REFUSAL, code);
        if receipt {
            let receipt = HeaderValue::from_static("a.b.c");
            response.headers_mut().insert(fields::SAE_RECEIPT, receipt);
        }
        is_to_be_decided_anew(&response, pep)
    }

    #[test]
    fn only_what_the_pep_refused_for_another_state_is_decided_anew() {
        assert!(anew("policy-changed", false) && anew("state-behind", false));
        for code in ["state-stale", "replayed", "agent-revoked", ""] {
            assert!(!anew(code, false), "{code}");
        }
        // The application answered, and may have acted.
        assert!(!anew("policy-changed", true) && !anew("state-behind", true));
        assert!(!is_to_be_decided_anew(&Response::new(()), Pep::Sidecar));
    }

    #[test]
    fn where_the_catalog_names_no_pep_nobody_gets_a_request_twice_by_saying_so() {
        for code in ["policy-changed", "state-behind"] {
            assert!(!anew_at(code, false, Pep::None), "{code}");
            assert!(anew_at(code, false, Pep::Gateway), "{code}");
        }
    }
}
