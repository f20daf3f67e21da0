//! The driver's two services.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::v1::identity_server::Identity;
use super::v1::node_server::Node;
use super::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
};
use super::{DRIVER, Mount, Refused, Target, publication, unpublication};
use crate::{Metrics, NodeError, thread};

/// Both services.
pub(super) struct Service {
    pub(super) node: String,
    pub(super) kubelet: PathBuf,
    pub(super) mount: Arc<dyn Mount>,
    pub(super) metrics: Arc<Metrics>,
    /// One mount at a time: the kubelet may ask anew for what is still being done.
    pub(super) turn: Arc<Mutex<()>>,
}

impl Service {
    /// Carries out what was asked for, unless it is refused, on a thread of its own.
    async fn carry_out<T: Send + 'static>(
        &self,
        operation: &'static str,
        target: Result<Target, Refused>,
        work: impl FnOnce(&dyn Mount, &Target) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, Status> {
        let count = |outcome| {
            self.metrics
                .volumes
                .with_label_values(&[operation, outcome])
                .inc()
        };
        let target = target.map_err(|refused| {
            count("Refused");
            tracing::warn!(operation, %refused, "volume refused");
            Status::invalid_argument(refused.to_string())
        })?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (mount, at) = (Arc::clone(&self.mount), target.clone());
        let done = thread::of_its_own(operation, turn, move || work(&*mount, &at)).await;
        match done {
            Ok(done) => {
                count("Done");
                tracing::info!(operation, pod = %target.pod(), "volume done");
                Ok(done)
            }
            Err(error) => {
                count(error.cause());
                tracing::warn!(operation, pod = %target.pod(), %error, "volume failed");
                Err(status(&error))
            }
        }
    }
}

fn status(error: &NodeError) -> Status {
    match error {
        NodeError::SocketFolder(_) => Status::failed_precondition(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: [].into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let target = publication(request.get_ref(), &self.kubelet);
        self.carry_out("publish", target, |mount, target| mount.publish(target))
            .await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let target = unpublication(request.get_ref(), &self.kubelet);
        self.carry_out("unpublish", target, |mount, target| mount.unpublish(target))
            .await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node.clone(),
            // As many as pods ask for.
            max_volumes_per_node: 0,
        }))
    }
}
