//! Generates the wire types from `proto/`, without protoc: protox parses, prost, tonic and `ttrpc.rs` generate.

use std::path::PathBuf;
use std::{env, fs, io};

mod ttrpc;

/// Services that are spoken over ttrpc; the daemon speaks some of them over gRPC as well.
const TTRPC_SERVICES: [&str; 7] = [
    "containerd.runtime.sandbox.v1.Sandbox",
    "containerd.services.events.ttrpc.v1.Events",
    "containerd.services.streaming.v1.Streaming",
    "containerd.task.v2.Task",
    "containerd.task.v3.Task",
    "nri.pkg.api.v1alpha1.Plugin",
    "nri.pkg.api.v1alpha1.Runtime",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = fs::read_dir("proto")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("methods.rs"), methods(&descriptors))?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    let ttrpc = env::var_os("CARGO_FEATURE_TTRPC").is_some();
    prost_build::Config::new()
        .enable_type_names()
        .bytes([".containerd.services.content.v1"])
        .include_file("mod.rs")
        .service_generator(Box::new(Services {
            grpc: grpc.then(grpc_generator),
            ttrpc,
        }))
        .compile_fds(descriptors)?;
    Ok(())
}

/// Writes down the methods of all services: path, and whether the client and the server stream.
fn methods(descriptors: &prost_types::FileDescriptorSet) -> String {
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let streams = (method.client_streaming(), method.server_streaming());
                methods.push((path, streams.0, streams.1));
            }
        }
    }
    format!("&{methods:?}")
}

fn grpc_generator() -> Box<dyn prost_build::ServiceGenerator> {
    tonic_prost_build::configure()
        // Clients are made from a channel: a generated `connect` would clash with the method Task.Connect.
        .build_transport(false)
        .service_generator()
}

/// Both generators, for the transports that the crate's features ask for.
struct Services {
    grpc: Option<Box<dyn prost_build::ServiceGenerator>>,
    ttrpc: bool,
}

impl prost_build::ServiceGenerator for Services {
    fn generate(&mut self, service: prost_build::Service, buf: &mut String) {
        let name = format!("{}.{}", service.package, service.proto_name);
        if self.ttrpc && TTRPC_SERVICES.contains(&name.as_str()) {
            ttrpc::generate(&service, buf);
        }
        // NRI is never spoken over gRPC.
        if let Some(grpc) = &mut self.grpc
            && !name.starts_with("nri.")
        {
            grpc.generate(service, buf);
        }
    }

    fn finalize(&mut self, buf: &mut String) {
        if let Some(grpc) = &mut self.grpc {
            grpc.finalize(buf);
        }
    }

    fn finalize_package(&mut self, package: &str, buf: &mut String) {
        if let Some(grpc) = &mut self.grpc {
            grpc.finalize_package(package, buf);
        }
    }
}
