//! containerd.services.snapshots.v1: the snapshotters.

use api_protos::containerd::services::snapshots::v1::snapshots_server::{
    Snapshots as Api, SnapshotsServer,
};
use api_protos::containerd::services::snapshots::v1::*;
use tonic::{Request, Response, Status};

use super::{Stream, open, ordered, paths, run, run_stream, unordered};
use crate::snapshots::{Info as Snapshot, Snapshots};

/// How many snapshots a message of a list has at most.
pub const LIST_CHUNK: usize = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    snapshots: Snapshots,
}

/// Returns the service as a server.
pub fn server(snapshots: Snapshots) -> SnapshotsServer<Service> {
    SnapshotsServer::new(Service { snapshots })
}

/// Returns what is known of a snapshot as the wire has it.
pub fn encode(snapshot: Snapshot) -> Info {
    let kind = match snapshot.kind {
        snapshotter::Kind::View => Kind::View,
        snapshotter::Kind::Active => Kind::Active,
        snapshotter::Kind::Committed => Kind::Committed,
    };
    Info {
        name: snapshot.name,
        parent: snapshot.parent,
        kind: kind.into(),
        created_at: snapshot.created_at,
        updated_at: snapshot.updated_at,
        labels: unordered(snapshot.labels),
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let (snapshotter, labels) = (&request.snapshotter, ordered(request.labels));
            let (key, parent) = (&request.key, &request.parent);
            let mounts = snapshots.prepare(&context, snapshotter, key, parent, labels)?;
            let mounts = mounts.into_iter().map(Into::into).collect();
            Ok(PrepareSnapshotResponse { mounts })
        })
        .await
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let (snapshotter, labels) = (&request.snapshotter, ordered(request.labels));
            let (key, parent) = (&request.key, &request.parent);
            let mounts = snapshots.view(&context, snapshotter, key, parent, labels)?;
            let mounts = mounts.into_iter().map(Into::into).collect();
            Ok(ViewSnapshotResponse { mounts })
        })
        .await
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let mounts = snapshots.mounts(&context, &request.snapshotter, &request.key)?;
            let mounts = mounts.into_iter().map(Into::into).collect();
            Ok(MountsResponse { mounts })
        })
        .await
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let (names, labels) = ([&*request.name, &*request.key], ordered(request.labels));
            snapshots.commit(
                &context,
                &request.snapshotter,
                names,
                labels,
                &request.parent,
            )
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || snapshots.remove(&context, &request.snapshotter, &request.key)).await
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let info = snapshots.stat(&context, &request.snapshotter, &request.key)?;
            Ok(StatSnapshotResponse {
                info: Some(encode(info)),
            })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let Info { name, labels, .. } = request.info.unwrap_or_default();
            let (labels, paths) = (ordered(labels), paths(request.update_mask));
            let info = snapshots.update(&context, &request.snapshotter, &name, labels, paths)?;
            Ok(UpdateSnapshotResponse {
                info: Some(encode(info)),
            })
        })
        .await
    }

    type ListStream = Stream<ListSnapshotsResponse>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run_stream(move || {
            let infos = snapshots.list(&context, &request.snapshotter, &request.filters)?;
            let messages = infos.chunks(LIST_CHUNK).map(|infos| ListSnapshotsResponse {
                info: infos.iter().cloned().map(encode).collect(),
            });
            Ok(messages.collect())
        })
        .await
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let (snapshots, (context, request)) = (self.snapshots.clone(), open(request)?);
        run(move || {
            let usage = snapshots.usage(&context, &request.snapshotter, &request.key)?;
            let (size, inodes) = (usage.size, usage.inodes);
            Ok(UsageResponse { size, inodes })
        })
        .await
    }

    async fn cleanup(&self, request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let (snapshots, (_, request)) = (self.snapshots.clone(), open(request)?);
        run(move || snapshots.cleanup(&request.snapshotter)).await
    }
}
