//! Bodies: read up to a limit to be bound by digest, or watched as they stream past.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use ring::digest;
use writ_sae::fields::SAE_RECEIPT;

/// Whatever made a body end early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The one body type of requests and responses inside the sidecar.
pub type Body = BoxBody<Bytes, BodyError>;

/// A whole body in memory.
pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A request's body after reading at most the limit.
pub enum Collected {
    /// All of it, at most the limit.
    Whole(Bytes),
    /// The limit was reached: what was read and the rest, as one stream that was never cut.
    TooLarge(Body),
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The sender took longer than it may.
    #[error("the body did not arrive within {0:?}")]
    Late(Duration),
    /// The connection broke, or the framing was wrong.
    #[error("the body broke off: {0}")]
    Broken(BodyError),
}

/// Reads a body up to `limit` bytes, within `timeout`.
///
/// A body that announces more than the limit is not read at all. Trailers are dropped: no digest
/// covers them.
///
/// # Errors
/// [`ReadError`] when it is late or breaks off.
pub async fn collect<B>(
    mut body: B,
    limit: usize,
    timeout: Duration,
) -> Result<Collected, ReadError>
where
    B: HttpBody<Data = Bytes> + Send + Sync + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    if body.size_hint().lower() > limit as u64 {
        return Ok(Collected::TooLarge(body.map_err(Into::into).boxed()));
    }
    let mut whole = BytesMut::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ReadError::Broken(e.into()))?;
            if let Ok(data) = frame.into_data() {
                whole.extend_from_slice(&data);
            }
            if whole.len() > limit {
                return Ok(Fits::No);
            }
        }
        Ok(Fits::Yes)
    };
    let fits = tokio::time::timeout(timeout, reading)
        .await
        .map_err(|_| ReadError::Late(timeout))??;
    let whole = whole.freeze();
    match fits {
        Fits::Yes => Ok(Collected::Whole(whole)),
        Fits::No => {
            let rest = body.map_err(Into::into);
            Ok(Collected::TooLarge(
                Prefixed {
                    head: Some(whole),
                    rest,
                }
                .boxed(),
            ))
        }
    }
}

enum Fits {
    Yes,
    No,
}

/// A body that starts with bytes already read.
struct Prefixed<B> {
    head: Option<Bytes>,
    rest: B,
}

impl<B> HttpBody for Prefixed<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }
}

/// What was seen of a body that streamed past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// SHA-256 of the bytes that passed.
    pub digest: [u8; 32],
    /// How many bytes passed.
    pub length: u64,
    /// Whether the body ended as its framing says it should.
    pub end: End,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The whole body passed.
    Complete,
    /// The sender or the receiver broke off.
    Aborted,
}

/// How long trailers may take after the last byte that was promised.
const TRAILERS: Duration = Duration::from_secs(5);

/// A body that is passed on frame by frame, never held back, and reported when it ends.
///
/// A receipt in the trailers ends here: it was meant for this hop. A server that writes a body of
/// known length stops reading it at its last byte; what follows is then read here.
pub struct Watched<B, F>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    F: FnOnce(Observed, Option<&HeaderMap>) + Send + 'static,
{
    /// Gone when the body is dropped.
    inner: Option<B>,
    promised: Option<u64>,
    seen: Seen<F>,
}

/// What has passed so far, and whom to tell.
struct Seen<F> {
    hash: digest::Context,
    length: u64,
    trailers: Option<HeaderMap>,
    report: Option<F>,
}

impl<F: FnOnce(Observed, Option<&HeaderMap>)> Seen<F> {
    fn take_in(&mut self, frame: &mut Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.hash.update(data);
            self.length = self.length.saturating_add(data.len() as u64);
        }
        if let Some(trailers) = frame.trailers_mut() {
            self.trailers = Some(trailers.clone());
            trailers.remove(SAE_RECEIPT);
        }
    }

    /// Tells once.
    fn finish(&mut self, end: End) {
        if let Some(report) = self.report.take() {
            let mut digest = [0; 32];
            for (to, from) in digest.iter_mut().zip(self.hash.clone().finish().as_ref()) {
                *to = *from;
            }
            let observed = Observed {
                digest,
                length: self.length,
                end,
            };
            report(observed, self.trailers.as_ref());
        }
    }

    /// Reads what is left of a body that nobody reads any more.
    async fn read_rest<B>(mut self, mut inner: B)
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let rest = async {
            while let Some(frame) = inner.frame().await {
                match frame {
                    Ok(mut frame) => self.take_in(&mut frame),
                    Err(_) => return End::Aborted,
                }
            }
            End::Complete
        };
        // All the bytes are there: trailers that never come do not take that back.
        let end = tokio::time::timeout(TRAILERS, rest).await;
        self.finish(end.unwrap_or(End::Complete));
    }
}

impl<B, F> Watched<B, F>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    F: FnOnce(Observed, Option<&HeaderMap>) + Send + 'static,
{
    /// Calls `report` once, with the trailers, when the body ends or is dropped.
    pub fn new(inner: B, report: F) -> Self {
        Self {
            promised: inner.size_hint().exact(),
            inner: Some(inner),
            seen: Seen {
                hash: digest::Context::new(&digest::SHA256),
                length: 0,
                trailers: None,
                report: Some(report),
            },
        }
    }
}

impl<B, F> HttpBody for Watched<B, F>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    F: FnOnce(Observed, Option<&HeaderMap>) + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { inner, seen, .. } = &mut *self;
        let Some(inner) = inner else {
            return Poll::Ready(None);
        };
        let mut polled = Pin::new(&mut *inner).poll_frame(cx);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                seen.take_in(frame);
                if seen.trailers.is_some() || inner.is_end_stream() {
                    seen.finish(End::Complete);
                }
            }
            Poll::Ready(Some(Err(_))) => seen.finish(End::Aborted),
            Poll::Ready(None) => seen.finish(End::Complete),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl<B, F> Drop for Watched<B, F>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    F: FnOnce(Observed, Option<&HeaderMap>) + Send + 'static,
{
    fn drop(&mut self) {
        let Some(report) = self.seen.report.take() else {
            return;
        };
        let mut seen = Seen {
            hash: self.seen.hash.clone(),
            length: self.seen.length,
            trailers: self.seen.trailers.take(),
            report: Some(report),
        };
        let whole = self.promised == Some(seen.length);
        match (self.inner.take(), tokio::runtime::Handle::try_current()) {
            (Some(inner), Ok(runtime)) if whole => {
                runtime.spawn(seen.read_rest(inner));
            }
            _ => seen.finish(End::Aborted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::StreamBody;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(5);

    fn chunks(parts: Vec<&'static str>) -> impl HttpBody<Data = Bytes, Error = BodyError> + Unpin {
        StreamBody::new(stream::iter(
            parts
                .into_iter()
                .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))),
        ))
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_read_whole() {
        let Collected::Whole(bytes) = collect(chunks(vec!["ab", "c"]), 3, LONG).await.unwrap()
        else {
            panic!("three bytes fit");
        };
        assert_eq!(bytes, "abc");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_still_arrives_uncut() {
        let Collected::TooLarge(body) = collect(chunks(vec!["ab", "cd", "ef"]), 3, LONG)
            .await
            .unwrap()
        else {
            panic!("six bytes do not fit");
        };
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_late() {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, BodyError>>());
        assert!(matches!(
            collect(never, 3, Duration::from_millis(1)).await,
            Err(ReadError::Late(_))
        ));
    }

    #[tokio::test]
    async fn a_watched_body_reports_its_digest_once() {
        let (tell, told) = mpsc::channel();
        let body = Watched::new(chunks(vec!["ab", "c"]), move |seen, _| {
            tell.send(seen).unwrap();
        });
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        let seen = told.recv().unwrap();
        assert_eq!((seen.length, seen.end), (3, End::Complete));
        assert_eq!(
            hex::encode(seen.digest),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(told.recv().is_err());
    }

    #[tokio::test]
    async fn a_dropped_body_is_reported_as_aborted() {
        let (tell, told) = mpsc::channel();
        drop(Watched::new(chunks(vec!["ab"]), move |seen, _| {
            tell.send(seen).unwrap();
        }));
        assert_eq!(told.recv().unwrap().end, End::Aborted);
    }

    #[tokio::test]
    async fn a_body_dropped_at_its_last_byte_is_complete_with_its_trailers() {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut trailers = HeaderMap::new();
        trailers.insert(SAE_RECEIPT, http::HeaderValue::from_static("r"));
        let frames = [
            Frame::data(Bytes::from_static(b"abc")),
            Frame::trailers(trailers),
        ];
        let inner = Promised(
            StreamBody::new(stream::iter(frames.map(Ok::<_, BodyError>))),
            3,
        );
        let mut body = Watched::new(inner, move |seen, trailers| {
            let receipt = trailers
                .and_then(|trailers| trailers.get(SAE_RECEIPT))
                .cloned();
            tell.send((seen, receipt)).unwrap();
        });
        body.frame().await.unwrap().unwrap();
        drop(body);
        let (seen, receipt) = told.recv().await.unwrap();
        assert_eq!((seen.length, seen.end), (3, End::Complete));
        assert_eq!(receipt.unwrap(), "r");
    }

    #[tokio::test]
    async fn a_body_dropped_before_its_last_byte_is_aborted() {
        let (tell, told) = mpsc::channel();
        let mut body = Watched::new(Promised(chunks(vec!["ab", "c"]), 3), move |seen, _| {
            tell.send(seen).unwrap();
        });
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(told.recv().unwrap().end, End::Aborted);
    }

    /// A body that promises a length.
    struct Promised<B>(B, u64);

    impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Promised<B> {
        type Data = Bytes;
        type Error = B::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }
}
