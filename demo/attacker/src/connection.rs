//! One mutual TLS connection to the target's PEP, and requests on it exactly as given.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use writ_identity::SvidSource;
use writ_identity::tls::{self, ExpectedPeer};

use crate::AttackError;

/// Whom to attack, and as whom.
pub struct Target {
    /// Address that is dialled.
    pub address: SocketAddr,
    /// SPIFFE ID that must answer.
    pub peer: String,
    /// The stolen identity.
    pub source: Arc<dyn SvidSource>,
}

/// What the PEP answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Stable code of the refusal; empty when the request was accepted.
    pub code: String,
}

/// One connection.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Its TLS exporter.
    pub channel_binding: [u8; 32],
}

fn failed(error: impl std::fmt::Display) -> AttackError {
    AttackError::Connection(error.to_string())
}

impl Connection {
    /// Opens a connection with the stolen identity.
    ///
    /// # Errors
    /// When the PEP does not accept the identity.
    pub async fn open(target: &Target) -> Result<Self, AttackError> {
        let peer = ExpectedPeer::new(&target.peer)?;
        let config = tls::client_config(Arc::clone(&target.source), peer)?;
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(target.address).await.map_err(failed)?;
        let name = ServerName::try_from("target.invalid").map_err(failed)?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(failed)?;
        let channel_binding = tls::channel_binding(stream.get_ref().1)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            channel_binding,
        })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Answer, AttackError> {
        self.sender.ready().await.map_err(failed)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(failed)?;
        *request.headers_mut() = headers.clone();
        let response = self.sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(failed)?
            .to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = json
            .get("code")
            .or_else(|| json.pointer("/error/data/code"))
            .and_then(|code| code.as_str());
        Ok(Answer {
            status,
            code: code.unwrap_or_default().to_owned(),
        })
    }
}
