//! The services: each call decodes, calls one function, encodes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use api_protos::runtime::v1::image_service_server::{ImageService, ImageServiceServer};
use api_protos::runtime::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use api_protos::runtime::v1::*;
use futures_util::{StreamExt, stream};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{Cri, container, image, metrics, pod, runtime, whole};
use crate::error::{Error, Kind, Result, status};

/// How many entries a message of a streamed list has.
const PAGE: usize = 500;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// Both services.
#[derive(Clone)]
pub struct Service(Arc<Cri>);

/// Returns the runtime service as a server.
pub fn runtime_server(cri: Arc<Cri>) -> RuntimeServiceServer<Service> {
    RuntimeServiceServer::new(Service(cri))
}

/// Returns the image service as a server.
pub fn image_server(cri: Arc<Cri>) -> ImageServiceServer<Service> {
    ImageServiceServer::new(Service(cri))
}

/// Answers with a result, encoded.
fn answer<T, U>(result: Result<T>, encode: impl FnOnce(T) -> U) -> Answer<U> {
    result.map(encode).map(Response::new).map_err(status)
}

impl Service {
    /// Answers with the result of work that is carried to its end even if the client goes away.
    async fn whole<T, U, F>(
        &self,
        work: impl FnOnce(Arc<Cri>) -> F,
        encode: impl FnOnce(T) -> U,
    ) -> Answer<U>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        answer(whole(work(self.0.clone())).await, encode)
    }
}

/// Answers with a list in messages of a bounded length.
fn pages<T, U>(all: Vec<T>, encode: fn(Vec<T>) -> U) -> Answer<Stream<U>>
where
    T: Clone + Send + 'static,
    U: Send + 'static,
{
    let pages: Vec<U> = all.chunks(PAGE).map(|page| encode(page.to_vec())).collect();
    Ok(Response::new(Box::pin(stream::iter(
        pages.into_iter().map(Ok),
    ))))
}

fn unimplemented<T>(what: &str) -> Answer<T> {
    Err(status(Error::new(Kind::Unimplemented, what)))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Stream<StreamPodSandboxesResponse>;
    type StreamContainersStream = Stream<StreamContainersResponse>;
    type StreamContainerStatsStream = Stream<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Stream<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Stream<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Stream<ContainerEventResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(runtime::version(&self.0)))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let run = |cri: Arc<Cri>| async move { pod::run::run(&cri, request).await };
        self.whole(run, |pod_sandbox_id| RunPodSandboxResponse {
            pod_sandbox_id,
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stop = |cri: Arc<Cri>| async move { pod::stop::stop(&cri, &id).await };
        self.whole(stop, |()| StopPodSandboxResponse {}).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let remove = |cri: Arc<Cri>| async move { pod::remove::remove(&cri, &id).await };
        self.whole(remove, |()| RemovePodSandboxResponse {}).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        answer(
            pod::status::status(&self.0, request.into_inner()).await,
            |answer| answer,
        )
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let items = pod::list::list(&self.0, request.into_inner().filter);
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let pods = pod::list::list(&self.0, request.into_inner().filter);
        pages(pods, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        })
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let create = |cri: Arc<Cri>| async move { container::create::create(&cri, request).await };
        self.whole(create, |container_id| CreateContainerResponse {
            container_id,
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let start = |cri: Arc<Cri>| async move { container::start::start(&cri, &id).await };
        self.whole(start, |()| StartContainerResponse {}).await
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        let (id, timeout) = (request.container_id, request.timeout);
        let stop = |cri: Arc<Cri>| async move { container::stop::stop(&cri, &id, timeout).await };
        self.whole(stop, |()| StopContainerResponse {}).await
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let remove = |cri: Arc<Cri>| async move { container::remove::remove(&cri, &id).await };
        self.whole(remove, |()| RemoveContainerResponse {}).await
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let containers = container::list::list(&self.0, request.into_inner().filter);
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = container::list::list(&self.0, request.into_inner().filter);
        pages(containers, |containers| StreamContainersResponse {
            containers,
        })
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let status = container::status::status(&self.0, request.into_inner()).await;
        answer(status, |answer| answer)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let update = |cri: Arc<Cri>| async move { container::update::update(&cri, request).await };
        self.whole(update, |()| UpdateContainerResourcesResponse {})
            .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let reopened = container::reopen_log::reopen(&self.0, &request.into_inner().container_id);
        answer(reopened, |()| ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let result = container::exec_sync::exec_sync(&self.0, request.into_inner()).await;
        answer(result, |answer| answer)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let url = container::exec::url(&self.0, request.into_inner());
        answer(url, |url| ExecResponse { url })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let url = container::attach::url(&self.0, request.into_inner());
        answer(url, |url| AttachResponse { url })
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Answer<PortForwardResponse> {
        let url = pod::port_forward::url(&self.0, request.into_inner());
        answer(url, |url| PortForwardResponse { url })
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let stats = container::stats::stats(&self.0, &request.into_inner().container_id).await;
        answer(stats, |stats| ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = container::stats::list(&self.0, request.into_inner().filter).await;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = container::stats::list(&self.0, request.into_inner().filter).await;
        pages(stats, |container_stats| StreamContainerStatsResponse {
            container_stats,
        })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let stats = pod::stats::of_id(&self.0, &request.into_inner().pod_sandbox_id).await;
        answer(stats, |stats| PodSandboxStatsResponse {
            stats: Some(stats),
        })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = pod::stats::list(&self.0, request.into_inner().filter).await;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = pod::stats::list(&self.0, request.into_inner().filter).await;
        pages(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        })
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let updated = runtime::update(&self.0, request.into_inner());
        answer(updated, |()| UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        Ok(Response::new(
            runtime::status(&self.0, request.into_inner()).await,
        ))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        unimplemented("checkpoints of containers are not supported")
    }

    async fn checkpoint_pod(
        &self,
        _: Request<CheckpointPodRequest>,
    ) -> Answer<CheckpointPodResponse> {
        unimplemented("checkpoints of pods are not supported")
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        unimplemented("checkpoints of pods are not supported")
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = BroadcastStream::new(self.0.listen());
        // A client that is too slow misses what it was too slow for, and looks for itself.
        let events =
            events.filter_map(|event| async move { event.ok().map(Arc::unwrap_or_clone).map(Ok) });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let descriptors = metrics::descriptors();
        Ok(Response::new(ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let pod_metrics = metrics::list(&self.0).await;
        Ok(Response::new(ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let metrics = metrics::list(&self.0).await;
        pages(metrics, |pod_sandbox_metrics| {
            StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }
        })
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        Ok(Response::new(runtime::config(&self.0)))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let updated = pod::update::update(&self.0, request.into_inner()).await;
        answer(updated, |()| UpdatePodSandboxResourcesResponse {})
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    type StreamImagesStream = Stream<StreamImagesResponse>;

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = image::list::list(&self.0, request.into_inner().filter).await;
        answer(images, |images| ListImagesResponse { images })
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let images = image::list::list(&self.0, request.into_inner().filter).await;
        pages(images.map_err(status)?, |images| StreamImagesResponse {
            images,
        })
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        let status = image::status::status(&self.0, request.into_inner()).await;
        answer(status, |answer| answer)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let pulled = image::pull::pull(&self.0, request.into_inner()).await;
        answer(pulled, |image_ref| PullImageResponse { image_ref })
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        let request = request.into_inner();
        let remove = |cri: Arc<Cri>| async move { image::remove::remove(&cri, request).await };
        self.whole(remove, |()| RemoveImageResponse {}).await
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        answer(image::fs_info::fs_info(&self.0).await, |answer| answer)
    }
}
