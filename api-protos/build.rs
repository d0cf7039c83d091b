//! Generates the wire types from `proto/`, without protoc: protox parses, prost and tonic generate.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = fs::read_dir("proto")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    let mut config = prost_build::Config::new();
    config
        .enable_type_names()
        .bytes([".containerd.services.content.v1"])
        .include_file("mod.rs");
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        // Clients are made from a channel: a generated `connect` would clash with the method Task.Connect.
        .build_transport(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
