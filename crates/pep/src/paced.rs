//! A body that may not pause for long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::BoxError;

/// The sender paused for longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the body paused for longer than {0:?}")]
pub(crate) struct Paused(Duration);

/// Passes a body on, and ends it with an error when it pauses for longer than it may. A sender
/// that is never asked for more does not pause.
pub(crate) struct Paced<B> {
    inner: Pin<Box<B>>,
    pause: Duration,
    /// Runs while the inner body is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(crate) fn new(inner: B, pause: Duration) -> Self {
        Self {
            inner: Box::pin(inner),
            pause,
            timer: None,
        }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = this.inner.as_mut().poll_frame(cx) {
            this.timer = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let pause = this.pause;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(pause)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Paused(pause).into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
