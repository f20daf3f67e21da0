//! The relay's side of the protocol: who may ask what, and the bounds of it.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use writ_chain::Reader;
use writ_proto::relay::v1;
use writ_proto::relay::v1::state_service_server::StateService;
use writ_proto::relay::v1::watch_request::Message as Said;

use super::hub::{Hub, lock};
use super::subscriber::Subscriber;
use crate::limits::{KEPT, QUEUE, REQUEST};
use crate::wire::{self, StateWriter};
use crate::{RelayError, Report, Unkept, seen, tls};

/// Open streams by SPIFFE ID.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_peer: Mutex<HashMap<Arc<str>, usize>>,
}

/// One stream's place, free again when this is dropped.
struct Place {
    places: Arc<Places>,
    peer: Arc<str>,
}

impl Places {
    fn take(self: &Arc<Self>, peer: &Arc<str>, most: usize) -> Option<Place> {
        let mut by_peer = lock(&self.by_peer);
        let open = by_peer.entry(Arc::clone(peer)).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        Some(Place {
            places: Arc::clone(self),
            peer: Arc::clone(peer),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_peer = lock(&self.places.by_peer);
        if let Some(open) = by_peer.get_mut(&self.peer) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

pub(super) struct Service {
    pub hubs: Arc<BTreeMap<u64, Arc<Hub>>>,
    pub places: Arc<Places>,
    /// Reports under way by SPIFFE ID.
    pub reporting: Arc<Places>,
    /// Room for reports that wait until they are kept.
    pub waiting: Semaphore,
    pub reports: Option<mpsc::Sender<Report>>,
    pub most_per_id: usize,
}

type Responses = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

impl Service {
    fn hub(&self, chain_id: u64) -> Result<&Arc<Hub>, Status> {
        let hub = self.hubs.get(&chain_id);
        hub.ok_or_else(|| Status::not_found(format!("chain {chain_id} is not relayed here")))
    }
}

#[tonic::async_trait]
impl StateService for Service {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let peer = tls::peer(&request)?;
        let mut heard = request.into_inner();
        let first = tokio::time::timeout(REQUEST, heard.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was said"))??;
        let Some(Said::Subscription(subscription)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("a subscription goes first"));
        };
        let hub = Arc::clone(self.hub(subscription.chain_id)?);
        let place = self.places.take(&peer, self.most_per_id);
        let place = place.ok_or_else(|| {
            Status::resource_exhausted("as many streams as one identity may have are open")
        })?;
        let (out, responses) = mpsc::channel(QUEUE);
        let subscriber = Subscriber::new(hub, out);
        tracing::debug!(%peer, "a sidecar follows");
        tokio::spawn(async move {
            let _place = place;
            subscriber.run(heard).await;
            tracing::debug!(%peer, "a sidecar went");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn read_account(
        &self,
        request: Request<v1::ReadAccountRequest>,
    ) -> Result<Response<v1::ReadAccountResponse>, Status> {
        let asked = request.into_inner();
        let hub = self.hub(asked.chain_id)?;
        if asked.slots.len() > Reader::MAX_SLOTS {
            return Err(RelayError::Protocol("too many slots in one request").into());
        }
        let block = wire::hash(&asked.block_hash)?;
        let address = wire::address(&asked.address)?;
        let slots = wire::numbers(&asked.slots)?;
        let claims = within(hub.cold(block, address, slots)).await?;
        let mut writer = StateWriter::default();
        let slots = claims.slots.iter().map(|(slot, claim)| (slot, claim));
        writer.account(address, &claims.account, slots);
        let state = Some(writer.finish());
        Ok(Response::new(v1::ReadAccountResponse { state }))
    }

    async fn read_code(
        &self,
        request: Request<v1::ReadCodeRequest>,
    ) -> Result<Response<v1::ReadCodeResponse>, Status> {
        let asked = request.into_inner();
        let hub = self.hub(asked.chain_id)?;
        let block = wire::hash(&asked.block_hash)?;
        let address = wire::address(&asked.address)?;
        let code_hash = wire::hash(&asked.code_hash)?;
        let code: Bytes = within(hub.code(block, address, code_hash)).await?.0;
        Ok(Response::new(v1::ReadCodeResponse { code }))
    }

    async fn report_actions(
        &self,
        request: Request<v1::ReportActionsRequest>,
    ) -> Result<Response<v1::ReportActionsResponse>, Status> {
        let none = || Status::unimplemented("reports are not kept here");
        let reports = self.reports.as_ref().ok_or_else(none)?;
        let agent = tls::peer(&request)?;
        tls::may_report(&request)?;
        let _place = self
            .reporting
            .take(&agent, self.most_per_id)
            .ok_or(Unkept::Busy)?;
        let _room = self.waiting.try_acquire().map_err(|_| Unkept::Busy)?;
        let actions = seen::read(request.into_inner())?;
        let (kept, answer) = oneshot::channel();
        let report = Report {
            agent,
            actions,
            kept,
        };
        reports.try_send(report).map_err(|_| Unkept::Busy)?;
        match tokio::time::timeout(KEPT, answer).await {
            Ok(Ok(kept)) => kept?,
            Ok(Err(_)) | Err(_) => return Err(Unkept::Failed.into()),
        }
        Ok(Response::new(v1::ReportActionsResponse {}))
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let done = tokio::time::timeout(REQUEST, work).await;
    done.unwrap_or_else(|_| Err(Status::deadline_exceeded("no endpoint answered in time")))
}
