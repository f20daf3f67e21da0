//! The gRPC service on its sockets.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use crate::proto::{
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use crate::{Config, IssuerError, Socket};

/// Metadata that every caller must send, so that no other client is made to fetch a key
/// (SPIFFE Workload Endpoint, section 3).
const METADATA: &str = "workload.spiffe.io";
/// SPIRE's words.
const NO_IDENTITY: &str = "no identity issued";
/// Streams on one connection.
const MAX_STREAMS: u32 = 64;

/// A running issuer. Dropping it ends it; so does an error of any listener.
pub struct Issuer {
    state: Arc<State>,
    /// Dropped to end all streams and listeners.
    open: watch::Sender<()>,
    tasks: JoinSet<Result<(), IssuerError>>,
}

struct State {
    config: Config,
    authorities: RwLock<BTreeMap<String, Authority>>,
    revision: watch::Sender<u64>,
}

/// Binds the sockets and serves them in the background.
///
/// # Errors
/// [`IssuerError::Config`] or [`IssuerError::Socket`].
pub async fn serve(config: Config) -> Result<Issuer, IssuerError> {
    config.check()?;
    let now = OffsetDateTime::now_utc();
    let authorities = config
        .trust_domains
        .iter()
        .map(|domain| Ok((domain.name.clone(), Authority::new(&domain.name, now)?)))
        .collect::<Result<_, IssuerError>>()?;
    let sockets = config.sockets.clone();
    let state = Arc::new(State {
        config,
        authorities: RwLock::new(authorities),
        revision: watch::Sender::new(0),
    });
    let open = watch::Sender::new(());
    let mut tasks = JoinSet::new();
    for socket in sockets {
        let listener = bind(&socket.path)?;
        let service = SpiffeWorkloadApiServer::new(Service {
            state: Arc::clone(&state),
            socket,
            closing: open.subscribe(),
        });
        let mut closing = open.subscribe();
        tasks.spawn(async move {
            Server::builder()
                .max_concurrent_streams(MAX_STREAMS)
                .add_service(service)
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                    // Nothing is ever sent: this ends when the sender is dropped.
                    let _ = closing.changed().await;
                })
                .await
                .map_err(|e| IssuerError::Serve(e.to_string()))
        });
    }
    Ok(Issuer { state, open, tasks })
}

/// Everyone may connect: who the caller is decides what it gets.
fn bind(path: &Path) -> Result<UnixListener, IssuerError> {
    let failed = |source| IssuerError::Socket {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if StdUnixStream::connect(path).is_ok() {
                return Err(failed(ErrorKind::AddrInUse.into()));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(ErrorKind::AlreadyExists.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

impl Issuer {
    /// Sends every connected workload a new SVID now.
    pub fn rotate(&self) {
        self.state.revision.send_modify(|revision| *revision += 1);
    }

    /// Gives a trust domain a new authority beside the old one, and everyone new SVIDs.
    ///
    /// # Errors
    /// [`IssuerError::Config`] for an unknown trust domain.
    pub fn rotate_authority(&self, trust_domain: &str) -> Result<(), IssuerError> {
        self.state
            .authorities
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(trust_domain)
            .ok_or_else(|| IssuerError::Config(format!("unknown trust domain {trust_domain:?}")))?
            .rotate(OffsetDateTime::now_utc())?;
        self.rotate();
        Ok(())
    }

    /// Waits until a listener ends, which it does only on an error.
    ///
    /// # Errors
    /// That error.
    pub async fn finished(&mut self) -> Result<(), IssuerError> {
        match self.tasks.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(IssuerError::Serve(error.to_string())),
            None => Ok(()),
        }
    }

    /// Ends all listeners and connections and waits until they have ended.
    pub async fn shutdown(self) {
        drop(self.open);
        self.tasks.join_all().await;
    }
}

struct Service {
    state: Arc<State>,
    socket: Socket,
    closing: watch::Receiver<()>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Responses<X509svidResponse>;
    type FetchX509BundlesStream = Responses<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let ids = self.identities(&request)?;
        Ok(self.stream(move |state| state.svids(&ids)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let ids = self.identities(&request)?;
        Ok(self.stream(move |state| Ok(state.bundles(&ids))))
    }
}

impl Service {
    /// The caller's identities, or SPIRE's refusals.
    fn identities<T>(&self, request: &Request<T>) -> Result<Vec<String>, Status> {
        if self.closing.has_changed().is_err() {
            return Err(Status::unavailable("the issuer is ending"));
        }
        let header = request.metadata().get(METADATA);
        if header.is_none_or(|value| value.as_bytes() != b"true") {
            return Err(Status::invalid_argument(
                "security header missing from request",
            ));
        }
        let uid = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .ok_or_else(|| Status::internal("the peer's credentials are not available"))?
            .uid();
        let ids: Vec<String> = self.socket.identities(uid).map(str::to_owned).collect();
        if ids.is_empty() {
            tracing::warn!(uid, socket = %self.socket.path.display(), "no registration entry");
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        Ok(ids)
    }

    /// Answers at once, then whenever SVIDs have lived half of their life or something changed.
    fn stream<T, F>(&self, respond: F) -> Response<Responses<T>>
    where
        T: Send + 'static,
        F: Fn(&State) -> Result<T, IssuerError> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let mut changes = state.revision.subscribe();
        let half_life = Duration::from_secs(state.config.svid_ttl_seconds) / 2;
        let mut closing = self.closing.clone();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                changes.mark_unchanged();
                let response = respond(&state).map_err(|e| Status::internal(e.to_string()));
                if sender.send(response).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(half_life) => {}
                    changed = changes.changed() => if changed.is_err() { return },
                    _ = closing.changed() => return,
                    () = sender.closed() => return,
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

impl State {
    fn svids(&self, ids: &[String]) -> Result<X509svidResponse, IssuerError> {
        let authorities = self
            .authorities
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let ttl = i64::try_from(self.config.svid_ttl_seconds).unwrap_or(i64::MAX);
        let now = OffsetDateTime::now_utc();
        let mut svids = Vec::new();
        for id in ids {
            let authority = authorities
                .get(trust_domain(id))
                .ok_or_else(|| IssuerError::Config(format!("no trust domain for {id}")))?;
            let issued = authority.issue(id, now, time::Duration::seconds(ttl))?;
            svids.push(X509svid {
                spiffe_id: id.clone(),
                x509_svid: issued.certificate,
                x509_svid_key: issued.pkcs8.to_vec(),
                bundle: authority.bundle(),
                hint: String::new(),
            });
        }
        let own: Vec<&str> = ids.iter().map(|id| trust_domain(id)).collect();
        Ok(X509svidResponse {
            svids,
            crl: Vec::new(),
            federated_bundles: bundles(
                &authorities,
                self.federated(&own).filter(|name| !own.contains(name)),
            ),
        })
    }

    fn bundles(&self, ids: &[String]) -> X509BundlesResponse {
        let authorities = self
            .authorities
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let own: Vec<&str> = ids.iter().map(|id| trust_domain(id)).collect();
        X509BundlesResponse {
            crl: Vec::new(),
            bundles: bundles(
                &authorities,
                self.federated(&own).chain(own.iter().copied()),
            ),
        }
    }

    /// Trust domains that any of these federates with.
    fn federated<'a>(&'a self, own: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        self.config
            .trust_domains
            .iter()
            .filter(|domain| own.contains(&domain.name.as_str()))
            .flat_map(|domain| &domain.federates_with)
            .map(String::as_str)
    }
}

fn bundles<'a>(
    authorities: &BTreeMap<String, Authority>,
    names: impl Iterator<Item = &'a str>,
) -> HashMap<String, Vec<u8>> {
    names
        .filter_map(|name| {
            let authority = authorities.get(name)?;
            Some((format!("spiffe://{name}"), authority.bundle()))
        })
        .collect()
}

/// Trust domain of a SPIFFE ID that the configuration's check accepted.
fn trust_domain(spiffe_id: &str) -> &str {
    let rest = spiffe_id.strip_prefix("spiffe://").unwrap_or_default();
    rest.split('/').next().unwrap_or_default()
}
