//! containerd.services.namespaces.v1: namespaces and their labels.

use api_protos::containerd::services::namespaces::v1::namespaces_server::{
    Namespaces as Api, NamespacesServer,
};
use api_protos::containerd::services::namespaces::v1::*;
use tonic::{Request, Response, Status};

use super::{ordered, paths, run, unordered};
use crate::labels::Labels;
use crate::metadata::Namespaces;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    namespaces: Namespaces,
}

/// Returns the service as a server.
pub fn server(namespaces: Namespaces) -> NamespacesServer<Service> {
    NamespacesServer::new(Service { namespaces })
}

fn encode(name: String, labels: Labels) -> Namespace {
    Namespace {
        name,
        labels: unordered(labels),
    }
}

#[tonic::async_trait]
impl Api for Service {
    async fn get(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<GetNamespaceResponse>, Status> {
        let (namespaces, name) = (self.namespaces.clone(), request.into_inner().name);
        run(move || {
            let labels = namespaces.labels(&name)?;
            Ok(GetNamespaceResponse {
                namespace: Some(encode(name, labels)),
            })
        })
        .await
    }

    async fn list(
        &self,
        _: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let namespaces = self.namespaces.clone();
        run(move || {
            let all = namespaces.list()?.into_iter();
            Ok(ListNamespacesResponse {
                namespaces: all.map(|(name, labels)| encode(name, labels)).collect(),
            })
        })
        .await
    }

    async fn create(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<CreateNamespaceResponse>, Status> {
        let namespaces = self.namespaces.clone();
        let Namespace { name, labels } = request.into_inner().namespace.unwrap_or_default();
        run(move || {
            let labels = namespaces.create(&name, ordered(labels))?;
            Ok(CreateNamespaceResponse {
                namespace: Some(encode(name, labels)),
            })
        })
        .await
    }

    async fn update(
        &self,
        request: Request<UpdateNamespaceRequest>,
    ) -> Result<Response<UpdateNamespaceResponse>, Status> {
        let (namespaces, request) = (self.namespaces.clone(), request.into_inner());
        let Namespace { name, labels } = request.namespace.unwrap_or_default();
        run(move || {
            let labels = namespaces.update(&name, ordered(labels), paths(request.update_mask))?;
            Ok(UpdateNamespaceResponse {
                namespace: Some(encode(name, labels)),
            })
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let (namespaces, name) = (self.namespaces.clone(), request.into_inner().name);
        run(move || namespaces.delete(&name)).await
    }
}
