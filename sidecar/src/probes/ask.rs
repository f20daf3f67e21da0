//! Asking the application.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Ask, HttpGet, Target, Tls};

impl Target {
    /// Whether the application is well.
    ///
    /// # Errors
    /// What it answered, or that it did not.
    pub(super) async fn ask(&self, agent: Option<&HeaderValue>) -> Result<(), String> {
        match &self.ask {
            Ask::Tcp => self.connect().await.map(drop),
            Ask::Http(get) => {
                let stream = self.connect().await?;
                let request = get.request(self, agent)?;
                match get.tls {
                    Tls::None => status(stream, request).await,
                    Tls::Unverified => status(self.handshake(stream).await?, request).await,
                }
            }
            Ask::Grpc { service } => self.grpc(service).await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.address).await;
        stream.map_err(|error| format!("{}: {error}", self.address))
    }

    async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(DangerousNoVerification(Arc::clone(&provider)));
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::from(self.address.ip()), stream)
            .await
            .map_err(|error| format!("TLS with {}: {error}", self.address))
    }

    /// `grpc.health.v1.Health/Check`.
    async fn grpc(&self, service: &str) -> Result<(), String> {
        let failed = |status: tonic::Status| {
            format!("gRPC health: {} ({})", status.message(), status.code())
        };
        let channel = tonic::transport::Endpoint::try_from(format!("http://{}", self.address))
            .map_err(|error| error.to_string())?
            .connect()
            .await
            .map_err(|error| format!("{}: {error}", self.address))?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(16 << 10);
        client
            .ready()
            .await
            .map_err(|error| format!("{}: {error}", self.address))?;
        let request = tonic::Request::new(HealthCheckRequest {
            service: service.to_owned(),
        });
        let method = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let answer = client.unary(request, method, codec).await.map_err(failed)?;
        match answer.into_inner().status {
            SERVING => Ok(()),
            other => Err(format!("gRPC health: status {other}, not SERVING")),
        }
    }
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

impl HttpGet {
    fn request(
        &self,
        target: &Target,
        agent: Option<&HeaderValue>,
    ) -> Result<Request<Empty<Bytes>>, String> {
        let host = HeaderValue::try_from(target.address.to_string());
        let mut request = Request::get(self.path.clone());
        let headers = request.headers_mut().ok_or("the probe's path is none")?;
        headers.insert(HOST, host.map_err(|error| error.to_string())?);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        // Applications know the kubelet by it.
        if let Some(agent) = agent {
            headers.insert(USER_AGENT, agent.clone());
        }
        // The first of a name replaces ours, further ones add to it.
        for (index, (name, value)) in self.headers.iter().enumerate() {
            if self.headers.iter().take(index).any(|(n, _)| n == name) {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
        request
            .body(Empty::new())
            .map_err(|error| error.to_string())
    }
}

/// Well is 200 to 399, as the kubelet has it. The body is not read.
async fn status<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = sender.send_request(request);
    let response = tokio::select! {
        response = exchange => response.map_err(|error| error.to_string())?,
        // It ends first only by an error, which the exchange then tells of.
        _ = connection => return Err("the connection ended without an answer".to_owned()),
    };
    match response.status().as_u16() {
        200..=399 => Ok(()),
        status => Err(format!("the application answered {status}")),
    }
}

/// The kubelet verifies no certificate of a probe either; nothing but the probe is sent.
#[derive(Debug)]
struct DangerousNoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for DangerousNoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
