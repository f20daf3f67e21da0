//! A response body that is hashed as it passes and ends in the final receipt.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use writ_sae::fields;

use crate::layer::{BodyError, Clock, PepBody};
use crate::receipts::{Draft, ReceiptBook};
use crate::record::{Completed, Recorder};

/// Signs, keeps and records the end of one admitted request. Dropped without an end (the caller
/// went away), the end is a failure: no admitted request is left without one.
pub(crate) struct Finisher(Option<End>);

/// What an end needs.
pub(crate) struct End {
    pub draft: Draft,
    pub book: ReceiptBook,
    pub recorder: Arc<dyn Recorder>,
    pub clock: Arc<dyn Clock>,
    pub decision_id: String,
}

impl Finisher {
    pub(crate) fn new(end: End) -> Self {
        Self(Some(end))
    }

    /// The receipt's value for a trailer, where it could be signed.
    pub(crate) fn finish(
        mut self,
        status: Option<u16>,
        response: Option<[u8; 32]>,
    ) -> Option<HeaderValue> {
        self.0.take()?.finish(status, response)
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end.finish(None, None);
        }
    }
}

impl End {
    fn finish(self, status: Option<u16>, response: Option<[u8; 32]>) -> Option<HeaderValue> {
        let (claims, signed) = self
            .draft
            .finish(status, response, self.clock.unix_millis());
        if let Err(error) = &signed {
            tracing::error!(%error, decision_id = self.decision_id, "no final receipt");
        }
        let receipt = signed.ok();
        self.recorder.completed(Completed {
            claims: &claims,
            receipt: receipt.as_ref(),
            decision_id: &self.decision_id,
        });
        let receipt = receipt?;
        self.book.put(claims.sae, receipt.clone());
        HeaderValue::from_str(receipt.as_str()).ok()
    }
}

/// Passes `inner` on, hashes it, and adds the final receipt as a trailer.
pub(crate) struct ReceiptBody {
    inner: PepBody,
    hash: Sha256,
    status: u16,
    finisher: Option<Finisher>,
}

impl ReceiptBody {
    pub(crate) fn new(inner: PepBody, status: u16, finisher: Finisher) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            status,
            finisher: Some(finisher),
        }
    }

    fn completed(&mut self) -> Option<HeaderValue> {
        let digest = std::mem::take(&mut self.hash).finalize().into();
        let finisher = self.finisher.take()?;
        finisher.finish(Some(self.status), Some(digest))
    }
}

impl Body for ReceiptBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                if let Some(finisher) = self.finisher.take() {
                    finisher.finish(Some(self.status), None);
                }
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                let trailer = self.completed().map(|receipt| {
                    let mut trailers = HeaderMap::new();
                    trailers.insert(fields::SAE_RECEIPT, receipt);
                    Ok(Frame::trailers(trailers))
                });
                return Poll::Ready(trailer);
            }
        };
        let frame = match frame.into_data() {
            Ok(data) => {
                self.hash.update(&data);
                Frame::data(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    trailers.remove(fields::SAE_RECEIPT);
                    if let Some(receipt) = self.completed() {
                        trailers.insert(fields::SAE_RECEIPT, receipt);
                    }
                    Frame::trailers(trailers)
                }
                Err(other) => other,
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        // The receipt is still to come while the finisher is there.
        self.finisher.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ReceiptBody {
    fn drop(&mut self) {
        // A server need not poll a body that it knows to be empty (HEAD, 204, 304); one that was
        // dropped in the middle broke off.
        if self.inner.is_end_stream() {
            self.completed();
        } else if let Some(finisher) = self.finisher.take() {
            finisher.finish(Some(self.status), None);
        }
    }
}
