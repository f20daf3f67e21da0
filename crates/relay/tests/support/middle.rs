//! A relay that lies by script: a server with the relay's identity in front of an honest one.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use writ_identity::tls::{Authorize, ExpectedPeer, client_config, server_config};
use writ_proto::relay::v1;
use writ_proto::relay::v1::state_service_client::StateServiceClient;
use writ_proto::relay::v1::state_service_server::{StateService, StateServiceServer};
use writ_proto::relay::v1::watch_response::Message;

use crate::cluster::{Cluster, RELAY};
use crate::identity::id;

type Watch = Box<dyn FnMut(Message) -> Vec<Message> + Send>;
type State = Box<dyn FnMut(v1::State) -> v1::State + Send>;
type Code = Box<dyn FnMut(bytes::Bytes) -> bytes::Bytes + Send>;

/// What it makes of the honest relay's messages.
pub struct Script {
    pub watch: Watch,
    pub account: State,
    pub code: Code,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            watch: Box::new(|message| vec![message]),
            account: Box::new(|state| state),
            code: Box::new(|code| code),
        }
    }
}

pub struct Middle {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Middle {
    /// Starts honest.
    pub async fn start(cluster: &Cluster) -> Self {
        let script: Arc<Mutex<Script>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source = cluster.ca.source(RELAY);
        let tls = server_config(source, Authorize::AnyInBundle).unwrap();
        let (sender, incoming) = tokio::sync::mpsc::channel(16);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&tls)).accept(stream).await
                else {
                    continue;
                };
                let (here, mut there) = tokio::io::duplex(64 << 10);
                tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
                });
                let _ = sender.send(Ok::<_, std::io::Error>(here)).await;
            }
        });
        let service = Service {
            honest: honest(cluster).await,
            script: Arc::clone(&script),
        };
        let service = StateServiceServer::new(service).max_encoding_message_size(1 << 30);
        let serving = tokio::spawn(async move {
            let incoming = ReceiverStream::new(incoming);
            let served = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming);
            let _ = served.await;
        });
        Self {
            address,
            script,
            tasks: vec![accepting, serving],
        }
    }

    pub fn play(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub fn be_honest(&self) {
        self.play(Script::default());
    }

    /// Lies in what it streams.
    pub fn lie(&self, watch: impl FnMut(Message) -> Vec<Message> + Send + 'static) {
        self.play(Script {
            watch: Box::new(watch),
            ..Script::default()
        });
    }

    /// Lies about state, in the stream and when asked.
    pub fn lie_about_state(&self, lie: impl FnMut(v1::State) -> v1::State + Send + 'static) {
        let lie = Arc::new(Mutex::new(lie));
        let streamed = Arc::clone(&lie);
        self.play(Script {
            watch: Box::new(move |mut message| {
                if let Message::Head(head) = &mut message {
                    let state = head.state.take().unwrap_or_default();
                    head.state = Some((streamed.lock().unwrap())(state));
                }
                vec![message]
            }),
            account: Box::new(move |state| (lie.lock().unwrap())(state)),
            ..Script::default()
        });
    }

    /// Changes heads before they are passed on.
    pub fn lie_about_heads(&self, mut lie: impl FnMut(&mut v1::Head) + Send + 'static) {
        self.lie(move |message| match message {
            Message::Head(mut head) => {
                lie(&mut head);
                vec![Message::Head(head)]
            }
            // It would vouch for what was said before.
            Message::Confirmation(_) => Vec::new(),
            other => vec![other],
        });
    }
}

/// A connection to the honest relay.
async fn honest(cluster: &Cluster) -> StateServiceClient<Channel> {
    let source = cluster.ca.source("ns/shop/sa/middle");
    let peer = ExpectedPeer::new(id(RELAY)).unwrap();
    let tls = TlsConnector::from(client_config(source, peer).unwrap());
    let to = cluster.address;
    let dial = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(to).await?;
            let name = "relay.invalid".try_into().unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://relay.invalid");
    StateServiceClient::new(endpoint.connect_with_connector(dial).await.unwrap())
        .max_decoding_message_size(64 << 20)
}

struct Service {
    honest: StateServiceClient<Channel>,
    script: Arc<Mutex<Script>>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl StateService for Service {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let heard = request
            .into_inner()
            .filter_map(|m| futures::future::ready(m.ok()));
        let said = self.honest.clone().watch(heard).await?.into_inner();
        let script = Arc::clone(&self.script);
        let played = said.flat_map(move |response| {
            let played: Vec<_> = match response {
                Err(status) => vec![Err(status)],
                Ok(response) => {
                    let message = response.message.unwrap();
                    let played = (script.lock().unwrap().watch)(message);
                    let response = |message| {
                        Ok(v1::WatchResponse {
                            message: Some(message),
                        })
                    };
                    played.into_iter().map(response).collect()
                }
            };
            stream::iter(played)
        });
        Ok(Response::new(Box::pin(played)))
    }

    async fn read_account(
        &self,
        request: Request<v1::ReadAccountRequest>,
    ) -> Result<Response<v1::ReadAccountResponse>, Status> {
        let asked = request.into_inner();
        let answer = self.honest.clone().read_account(asked).await?.into_inner();
        let state = answer.state.unwrap_or_default();
        let state = Some((self.script.lock().unwrap().account)(state));
        Ok(Response::new(v1::ReadAccountResponse { state }))
    }

    async fn report_actions(
        &self,
        _: Request<v1::ReportActionsRequest>,
    ) -> Result<Response<v1::ReportActionsResponse>, Status> {
        Err(Status::unimplemented("no reports"))
    }

    async fn read_code(
        &self,
        request: Request<v1::ReadCodeRequest>,
    ) -> Result<Response<v1::ReadCodeResponse>, Status> {
        let asked = request.into_inner();
        let code = self
            .honest
            .clone()
            .read_code(asked)
            .await?
            .into_inner()
            .code;
        let code = (self.script.lock().unwrap().code)(code);
        Ok(Response::new(v1::ReadCodeResponse { code }))
    }
}
