//! A simulated sidecar.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use writ_identity::SvidSource;
use writ_identity::tls::{ExpectedPeer, client_config};
use writ_policy::ProvedHeader;
use writ_proto::relay::v1;
use writ_proto::relay::v1::state_service_client::StateServiceClient;
use writ_proto::relay::v1::watch_request::Message as Say;
use writ_proto::relay::v1::watch_response::Message as Said;

use crate::world::{ACCOUNTS, RELAY, SLOTS, World, account};

/// Kinds of actions that one reports.
const SEEN: usize = 20;

/// What a sidecar was told.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// Another head, of this number.
    Head(u64),
    /// An agent was revoked.
    Revoked,
}

pub struct Sidecar {
    number: usize,
    client: StateServiceClient<Channel>,
    _say: mpsc::Sender<v1::WatchRequest>,
}

impl Sidecar {
    /// Connects, subscribes, says what it wants, and listens.
    pub fn connect(
        world: &World,
        number: usize,
        events: mpsc::UnboundedSender<(Event, Instant)>,
    ) -> impl Future<Output = Self> + Send + 'static {
        let source = Arc::clone(world.agent(number));
        let (address, chain_id) = (world.address, world.chain_id());
        async move {
            let mut client = dial(address, source).await;
            let (say, said) = mpsc::channel(8);
            let subscription = Say::Subscription(v1::Subscription { chain_id });
            for message in [subscription, Say::WarmSet(wants(number))] {
                say.send(request(message)).await.unwrap();
            }
            let stream = client.watch(ReceiverStream::new(said)).await.unwrap();
            let mut stream = stream.into_inner();
            let answer = say.clone();
            tokio::spawn(async move {
                // One that is lost is missed when heads and notices are counted.
                while let Ok(Some(response)) = stream.message().await {
                    let at = Instant::now();
                    match response.message.unwrap() {
                        Said::Head(head) => {
                            let header = ProvedHeader::from_rlp(head.header).unwrap();
                            let _ = events.send((Event::Head(header.number), at));
                        }
                        Said::Revocation(notice) => {
                            let _ = events.send((Event::Revoked, at));
                            let held = v1::Acknowledgement {
                                notice_id: notice.id,
                                enforcement: v1::Enforcement::Held.into(),
                            };
                            answer
                                .send(request(Say::Acknowledgement(held)))
                                .await
                                .unwrap();
                        }
                        Said::Certificate(_) | Said::Confirmation(_) => {}
                    }
                }
            });
            Self {
                number,
                client,
                _say: say,
            }
        }
    }

    /// Reports what its agent did until that is kept; how long it took.
    pub async fn report(self: Arc<Self>) -> Duration {
        let began = Instant::now();
        let action = |n: usize| v1::SeenAction {
            capability: "payments.transfer".to_owned(),
            class: 2,
            destination: "payments.bank.svc.cluster.local:8080".to_owned(),
            method: Some("POST".to_owned()),
            path: Some(format!("/v1/accounts/{}/transfers/{n}", self.number % 40)),
            count: 3,
            first: 1_700_000_000,
            last: 1_700_000_100,
            ..v1::SeenAction::default()
        };
        let report = v1::ReportActionsRequest {
            actions: (0..SEEN).map(action).collect(),
        };
        while let Err(status) = self.client.clone().report_actions(report.clone()).await {
            let again = matches!(
                status.code(),
                tonic::Code::ResourceExhausted | tonic::Code::Unavailable
            );
            assert!(again, "{status}");
            // As long as a sidecar waits between two, less what made it wait.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        began.elapsed()
    }
}

fn request(message: Say) -> v1::WatchRequest {
    v1::WatchRequest {
        message: Some(message),
    }
}

/// The registries, which all want, and the policy contract of its agent.
fn wants(number: usize) -> v1::WarmSet {
    let own = 2 + number % (ACCOUNTS - 2);
    let account = |n: usize| v1::WarmAccount {
        address: Bytes::copy_from_slice(account(n).as_slice()),
        slots: (0..SLOTS).map(word).collect(),
    };
    v1::WarmSet {
        accounts: [0, 1, own].map(account).to_vec(),
    }
}

fn word(number: u64) -> Bytes {
    let mut word = vec![0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    Bytes::from(word)
}

async fn dial(
    address: std::net::SocketAddr,
    source: Arc<dyn SvidSource>,
) -> StateServiceClient<Channel> {
    let tls = client_config(source, ExpectedPeer::new(RELAY).unwrap()).unwrap();
    let tls = TlsConnector::from(tls);
    let dial = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = "relay.invalid".try_into().unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://relay.invalid");
    StateServiceClient::new(endpoint.connect_with_connector(dial).await.unwrap())
        .max_decoding_message_size(64 << 20)
}
