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
    /// Nothing, or not enough, arrived in time.
    #[error("nothing readable arrived within {0:?}")]
    Late(Duration),
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
    /// The bytes already read, and the connection behind them.
    pub fn into_parts(self) -> (Bytes, TcpStream) {
        (self.head.into_inner(), self.stream)
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
    let start = tokio::time::timeout(within, read_head(&mut stream, &mut head))
        .await
        .map_err(|_| HelloError::Late(within))??;
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
