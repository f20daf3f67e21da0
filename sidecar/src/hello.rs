//! The first bytes of a captured connection: TLS with its ClientHello, or something else.

use std::io::Cursor;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tls_parser::{TlsMessage, TlsMessageHandshake, parse_tls_plaintext};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Largest ClientHello read, in bytes; stock clients send at most a few kilobytes.
const MAX_HELLO: usize = 16 << 10;

/// Longest method that is taken for one, where what is none passes unread.
const MAX_METHOD: usize = 32;

/// First byte of a TLS handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

/// Extension that carries an encrypted ClientHello (RFC 9849).
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What a connection starts with.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// A TLS ClientHello.
    Tls(Hello),
    /// Anything else; HTTP is tried.
    Clear,
    /// Not enough in time to tell.
    Late,
}

/// What a ClientHello tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Server name, lower case, without a trailing dot.
    pub server_name: Option<String>,
    /// Whether it offers an encrypted ClientHello.
    pub encrypted: Encrypted,
}

/// Whether a ClientHello offers an encrypted inner one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encrypted {
    /// No such extension.
    No,
    /// The extension is there (or its absence cannot be shown).
    Possibly,
}

/// Why a connection's start could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The peer closed first.
    #[error("the connection closed before it said anything")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// It looks like TLS, but is not.
    #[error("not a TLS ClientHello: {0}")]
    Malformed(String),
    /// The ClientHello is larger than any stock client's.
    #[error("the ClientHello is larger than 16 KiB")]
    TooLarge,
}

/// A connection whose first bytes were read and stand in front of it again.
pub struct Rewound {
    head: Cursor<Bytes>,
    stream: TcpStream,
}

impl Rewound {
    /// A connection of which nothing was read.
    pub fn unread(stream: TcpStream) -> Self {
        Self {
            head: Cursor::new(Bytes::new()),
            stream,
        }
    }

    /// The bytes already read, and the connection behind them.
    pub fn into_parts(self) -> (Bytes, TcpStream) {
        (self.head.into_inner(), self.stream)
    }

    /// Whether what was read may start an HTTP request: a method's token, or a beginning of one
    /// (RFC 9110, section 9.1).
    pub fn may_be_http(&self) -> bool {
        let head = self.head.get_ref();
        let method = head.split(|byte| *byte == b' ').next().unwrap_or_default();
        (1..=MAX_METHOD).contains(&method.len())
            && http::Method::from_bytes(method).is_ok()
            && method.iter().all(u8::is_ascii_uppercase)
    }
}

/// Reads until the connection shows what it is. Nothing read is lost.
///
/// # Errors
/// [`HelloError`] when it stays silent, breaks, or sends a malformed ClientHello.
pub async fn read_start(
    mut stream: TcpStream,
    within: Duration,
) -> Result<(Start, Rewound), HelloError> {
    let mut head = BytesMut::with_capacity(1024);
    let reading = tokio::time::timeout(within, read_head(&mut stream, &mut head));
    let start = match reading.await {
        Ok(start) => start?,
        Err(_) => Start::Late,
    };
    let head = Cursor::new(head.freeze());
    Ok((start, Rewound { head, stream }))
}

async fn read_head(stream: &mut TcpStream, head: &mut BytesMut) -> Result<Start, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        if stream.read_buf(head).await? == 0 {
            return Err(match head.is_empty() {
                true => HelloError::Closed,
                false => HelloError::Malformed("it broke off".to_owned()),
            });
        }
        if head.first() != Some(&HANDSHAKE) {
            return Ok(Start::Clear);
        }
        if head.len() > MAX_HELLO {
            return Err(HelloError::TooLarge);
        }
        let mut unread = head.get(fed..).unwrap_or_default();
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread)?;
        }
        fed = head.len();
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let server_name = accepted
                    .client_hello()
                    .server_name()
                    .map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                return Ok(Start::Tls(Hello {
                    server_name,
                    encrypted: encrypted(head),
                }));
            }
            Ok(None) => {}
            Err((error, _)) => return Err(HelloError::Malformed(error.to_string())),
        }
    }
}

/// Whether a ClientHello offers an encrypted one. What cannot be read might.
fn encrypted(record: &[u8]) -> Encrypted {
    let Ok((_, plaintext)) = parse_tls_plaintext(record) else {
        return Encrypted::Possibly;
    };
    let Some(TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello))) =
        plaintext.msg.first()
    else {
        return Encrypted::Possibly;
    };
    let Some(extensions) = hello.ext else {
        return Encrypted::No;
    };
    match tls_parser::parse_tls_client_hello_extensions(extensions) {
        Ok(([], list)) => {
            let offered = list.iter().any(|extension| {
                tls_parser::TlsExtensionType::from(extension).0 == ENCRYPTED_CLIENT_HELLO
            });
            if offered {
                Encrypted::Possibly
            } else {
                Encrypted::No
            }
        }
        _ => Encrypted::Possibly,
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if (self.head.position() as usize) < self.head.get_ref().len() {
            return std::pin::Pin::new(&mut self.head).poll_read(cx, buf);
        }
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
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

    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const PATIENT: Duration = Duration::from_secs(30);

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let client = client.unwrap();
        client.set_nodelay(true).unwrap();
        (client, accepted.unwrap().0)
    }

    /// The ClientHello that a stock client sends to `name`.
    fn stock_hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    /// What is made of a client that sends `bytes` and closes.
    async fn start_of(bytes: Vec<u8>) -> Result<(Start, Rewound), HelloError> {
        let (mut client, server) = connection().await;
        // A reader that has seen enough may have closed already.
        let sending = async move {
            let _ = client.write_all(&bytes).await;
            let _ = client.shutdown().await;
        };
        let ((), start) = tokio::join!(sending, read_start(server, PATIENT));
        start
    }

    fn named(start: Start) -> Hello {
        match start {
            Start::Tls(hello) => hello,
            other => panic!("not taken for TLS: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_stock_client_is_read_with_its_name_in_lower_case_and_nothing_is_lost() {
        let hello = stock_hello("API.Search.example");
        let (start, rewound) = start_of(hello.clone()).await.unwrap();
        let read = named(start);
        assert_eq!(read.server_name.as_deref(), Some("api.search.example"));
        assert_eq!(read.encrypted, Encrypted::No);
        let (head, _) = rewound.into_parts();
        assert_eq!(head, hello);
    }

    #[tokio::test]
    async fn a_client_that_names_an_address_has_no_server_name() {
        let (start, _) = start_of(stock_hello("192.0.2.10")).await.unwrap();
        assert_eq!(named(start).server_name, None);
    }

    #[tokio::test]
    async fn a_hello_in_many_pieces_is_read_as_one() {
        let hello = stock_hello("api.search.example");
        let (mut client, server) = connection().await;
        let sending = async {
            for piece in hello.chunks(7) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let ((), start) = tokio::join!(sending, read_start(server, PATIENT));
        let (start, mut rewound) = start.unwrap();
        let name = named(start).server_name;
        assert_eq!(name.as_deref(), Some("api.search.example"));
        // Reading starts over at the first byte.
        let mut again = vec![0; hello.len()];
        rewound.read_exact(&mut again).await.unwrap();
        assert_eq!(again, hello);
    }

    #[tokio::test]
    async fn a_hello_over_several_records_is_read_but_its_encryption_is_not_ruled_out() {
        let hello = stock_hello("api.search.example");
        let (handshake, version) = (&hello[5..], &hello[1..3]);
        let mut records = Vec::new();
        for piece in handshake.chunks(100) {
            records.push(HANDSHAKE);
            records.extend_from_slice(version);
            records.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
            records.extend_from_slice(piece);
        }
        let (start, _) = start_of(records).await.unwrap();
        let read = named(start);
        assert_eq!(read.server_name.as_deref(), Some("api.search.example"));
        assert_eq!(read.encrypted, Encrypted::Possibly);
    }

    /// The same ClientHello with one more extension.
    fn with_extension(mut hello: Vec<u8>, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut extension = kind.to_be_bytes().to_vec();
        extension.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        extension.extend_from_slice(body);
        let more = u16::try_from(extension.len()).unwrap();
        let grow = |hello: &mut [u8], at: usize| {
            let old = u16::from_be_bytes([hello[at], hello[at + 1]]);
            hello[at..at + 2].copy_from_slice(&(old + more).to_be_bytes());
        };
        // Record header, handshake header, version, random; then three vectors (RFC 8446, 4.1.2).
        let session = 5 + 4 + 2 + 32;
        let suites = session + 1 + usize::from(hello[session]);
        let suites_length = u16::from_be_bytes([hello[suites], hello[suites + 1]]);
        let compression = suites + 2 + usize::from(suites_length);
        let extensions = compression + 1 + usize::from(hello[compression]);
        for length in [3, 7, extensions] {
            grow(&mut hello, length);
        }
        hello.extend_from_slice(&extension);
        hello
    }

    #[tokio::test]
    async fn an_offer_of_an_encrypted_hello_is_seen() {
        let hello = stock_hello("api.search.example");
        let outer = [0, 0, 1, 0, 1, 7, 0, 1, 9, 0, 1, 9];
        let (start, _) = start_of(with_extension(
            hello.clone(),
            ENCRYPTED_CLIENT_HELLO,
            &outer,
        ))
        .await
        .unwrap();
        assert_eq!(named(start).encrypted, Encrypted::Possibly);
        // Any other extension is none of that.
        let (start, _) = start_of(with_extension(hello, 0xfafa, &[])).await.unwrap();
        assert_eq!(named(start).encrypted, Encrypted::No);
    }

    #[tokio::test]
    async fn what_is_not_tls_is_clear_and_nothing_is_lost() {
        let request = b"GET / HTTP/1.1\r\n\r\n".to_vec();
        let (start, rewound) = start_of(request.clone()).await.unwrap();
        assert_eq!(start, Start::Clear);
        assert_eq!(rewound.into_parts().0, request);
    }

    #[tokio::test]
    async fn garbage_that_looks_like_tls_is_malformed() {
        let mut garbage = vec![HANDSHAKE, 3, 1, 0, 8];
        garbage.extend_from_slice(&[0xff; 8]);
        for bytes in [garbage, vec![HANDSHAKE; 400]] {
            let error = start_of(bytes).await.err();
            assert!(matches!(error, Some(HelloError::Malformed(_))), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_hello_that_breaks_off_is_malformed_and_silence_is_closed() {
        let mut hello = stock_hello("api.search.example");
        hello.truncate(40);
        let error = start_of(hello).await.err();
        assert!(matches!(error, Some(HelloError::Malformed(_))), "{error:?}");
        let error = start_of(Vec::new()).await.err();
        assert!(matches!(error, Some(HelloError::Closed)), "{error:?}");
    }

    #[tokio::test]
    async fn a_hello_over_16_kib_is_refused() {
        // Two records of a handshake message that announces 60,000 bytes.
        let mut message = vec![1, 0, 0xea, 0x60];
        message.resize(32_000, 0);
        let mut records = Vec::new();
        for piece in message.chunks(16_000) {
            records.extend_from_slice(&[HANDSHAKE, 3, 1]);
            records.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
            records.extend_from_slice(piece);
        }
        let error = start_of(records).await.err();
        assert!(matches!(error, Some(HelloError::TooLarge)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_half_a_hello_and_waits_is_late() {
        let (mut client, server) = connection().await;
        let hello = stock_hello("api.search.example");
        client.write_all(&hello[..20]).await.unwrap();
        let (start, rewound) = read_start(server, PATIENT).await.unwrap();
        assert_eq!(start, Start::Late);
        assert_eq!(rewound.into_parts().0, &hello[..20]);
    }

    #[tokio::test]
    async fn what_cannot_start_an_http_request_is_told_from_what_may() {
        for (bytes, may) in [
            (&b"GET / HTTP/1.1\r\n"[..], true),
            (b"PRI * HTTP/2.0\r\n", true),
            (b"PO", true),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", false),
            (b"*1\r\n$4\r\nPING\r\n", false),
            (b"GET/", false),
            (b" GET / HTTP/1.1\r\n", false),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", false),
        ] {
            let (start, rewound) = start_of(bytes.to_vec()).await.unwrap();
            assert_eq!(start, Start::Clear);
            assert_eq!(rewound.may_be_http(), may, "{bytes:?}");
        }
    }
}
