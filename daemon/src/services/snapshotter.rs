//! containerd.services.snapshots.v1 straight upon one snapshotter, for another containerd to have as a proxy plugin.

use std::sync::Arc;

use api_protos::containerd::services::snapshots::v1::snapshots_server::{
    Snapshots as Api, SnapshotsServer,
};
use api_protos::containerd::services::snapshots::v1::*;
use snapshotter::{CommitOptions, Snapshotter};
use tonic::{Request, Response, Status};

use super::snapshots::{LIST_CHUNK, encode};
use super::{Stream, ordered, paths, run, run_stream};
use crate::filter::Filter;
use crate::snapshots::Info as Record;

/// The service. Which snapshotter a request names is no matter: there is one.
#[derive(Clone)]
pub struct Service {
    snapshotter: Arc<dyn Snapshotter>,
}

/// Returns the service as a server.
pub fn server(snapshotter: Arc<dyn Snapshotter>) -> SnapshotsServer<Service> {
    SnapshotsServer::new(Service { snapshotter })
}

#[tonic::async_trait]
impl Api for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let labels = ordered(request.labels);
            let mounts = snapshotter.prepare(&request.key, &request.parent, &labels)?;
            let mounts = mounts.into_iter().map(Into::into).collect();
            Ok(PrepareSnapshotResponse { mounts })
        })
        .await
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let labels = ordered(request.labels);
            let mounts = snapshotter.view(&request.key, &request.parent, &labels)?;
            let mounts = mounts.into_iter().map(Into::into).collect();
            Ok(ViewSnapshotResponse { mounts })
        })
        .await
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let mounts = snapshotter.mounts(&request.key)?;
            let mounts = mounts.into_iter().map(Into::into).collect();
            Ok(MountsResponse { mounts })
        })
        .await
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let options = CommitOptions {
                labels: ordered(request.labels),
                parent: request.parent,
            };
            snapshotter.commit(&request.name, &request.key, &options)
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || snapshotter.remove(&request.key)).await
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let info = snapshotter.stat(&request.key)?;
            Ok(StatSnapshotResponse {
                info: Some(encode(info.into())),
            })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let given = request.info.unwrap_or_default();
            let mut info = snapshotter.stat(&given.name)?;
            info.labels = ordered(given.labels);
            let info = snapshotter.update(&info, &paths(request.update_mask))?;
            Ok(UpdateSnapshotResponse {
                info: Some(encode(info.into())),
            })
        })
        .await
    }

    type ListStream = Stream<ListSnapshotsResponse>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run_stream(move || {
            let filter = Filter::parse(&request.filters)?;
            let mut found = Vec::new();
            snapshotter.walk(&mut |info| {
                let info = Record::from(info);
                if filter.matches(&info) {
                    found.push(encode(info));
                }
                Ok(())
            })?;
            let messages = found.chunks(LIST_CHUNK);
            let messages = messages.map(|infos| ListSnapshotsResponse {
                info: infos.to_vec(),
            });
            Ok(messages.collect())
        })
        .await
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let (snapshotter, request) = (self.snapshotter.clone(), request.into_inner());
        run(move || {
            let usage = snapshotter.usage(&request.key)?;
            let (size, inodes) = (usage.size, usage.inodes);
            Ok(UsageResponse { size, inodes })
        })
        .await
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let snapshotter = self.snapshotter.clone();
        run(move || snapshotter.cleanup()).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use snapshotter::conformance::cases;
    use snapshotter::native::Native;
    use sys::mount::{Mount, private_namespace, unmount_all};
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::transport::Server;

    use super::*;
    use crate::snapshots::proxy::Proxy;

    /// Holds a case against a snapshotter that is reached as a proxy plugin, on a tmpfs of its own.
    fn by_proxy(root: &Path, case: fn(&dyn Snapshotter)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let native = Arc::new(Native::open(root.join("root")).unwrap());
        let socket = root.join("socket");
        let proxy = {
            let _entered = runtime.enter();
            let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
            let serving = Server::builder().add_service(server(native));
            runtime.spawn(serving.serve_with_incoming(listener));
            Proxy::new("far", &socket, Vec::new())
        };
        case(&proxy);
    }

    #[test]
    fn a_snapshotter_conforms_by_way_of_two_processes() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: mounting needs root");
            return;
        }
        // The runtime's threads are started below this one and share its mounts.
        private_namespace().unwrap();
        let mut failed = Vec::new();
        for (name, case) in cases() {
            let folder = tempfile::tempdir().unwrap();
            let tmpfs = Mount {
                fstype: "tmpfs".into(),
                source: "tmpfs".into(),
                ..Mount::default()
            };
            tmpfs.mount(folder.path()).unwrap();
            if std::panic::catch_unwind(|| by_proxy(folder.path(), *case)).is_err() {
                failed.push(*name);
            }
            unmount_all(folder.path()).unwrap();
        }
        assert!(failed.is_empty(), "failed: {failed:?}");
    }
}
