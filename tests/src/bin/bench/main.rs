//! What `bench/run` starts: measures ours beside the peers, sample by sample, and reports the ratios.
//!
//! `bench LAYERS`, with the folder of the large image's layers, inside the view that `bench/view` makes.
#![forbid(unsafe_code)]

mod counts;
mod docker;
mod engine;
mod kubernetes;
mod memory;
mod oci;
mod plot;
mod pull;
mod report;
mod sample;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;

use tests::Peers;

use report::Row;

/// What every measurement is given.
pub struct Bench {
    /// The foreign programs.
    pub peers: Peers,
    /// The folder of the large image's layers.
    pub layers: PathBuf,
    /// How many samples of each contender make a median.
    pub samples: usize,
}

/// Rows that are measured together, because their samples are interleaved or share a set-up.
struct Group {
    suite: &'static str,
    names: &'static [&'static str],
    measure: fn(&Bench) -> Vec<Row>,
}

const fn group(names: &'static [&'static str], measure: fn(&Bench) -> Vec<Row>) -> Group {
    Group {
        suite: "main-job",
        names,
        measure,
    }
}

const fn docker(names: &'static [&'static str], measure: fn(&Bench) -> Vec<Row>) -> Group {
    Group {
        suite: "docker",
        ..group(names, measure)
    }
}

const fn kubernetes(names: &'static [&'static str], measure: fn(&Bench) -> Vec<Row>) -> Group {
    Group {
        suite: "kubernetes",
        ..group(names, measure)
    }
}

const GROUPS: &[Group] = &[
    group(oci::RUN, oci::run),
    group(oci::EXEC, oci::exec),
    group(engine::RUN, engine::run),
    group(engine::EXEC, engine::exec),
    group(memory::SHIMS, memory::shims),
    group(memory::IDLE, memory::idle),
    group(counts::NAMES, counts::measure),
    group(pull::GZIP, pull::gzip),
    group(pull::ZSTD, pull::zstd),
    docker(docker::RUN, docker::run),
    docker(docker::EXEC, docker::exec),
    docker(docker::BUILD, docker::build),
    docker(docker::PULL_GRAPH_DRIVER, docker::pull_by_graph_driver),
    docker(docker::PULL_IMAGE_STORE, docker::pull_to_image_store),
    kubernetes(kubernetes::ALONE, kubernetes::alone),
    kubernetes(
        kubernetes::ALONE_WITH_NETWORK,
        kubernetes::alone_with_network,
    ),
    kubernetes(kubernetes::TOGETHER, kubernetes::together),
    kubernetes(
        kubernetes::TOGETHER_WITH_NETWORK,
        kubernetes::together_with_network,
    ),
    kubernetes(kubernetes::MANY, kubernetes::many),
    kubernetes(kubernetes::LOOKS, kubernetes::looks),
];

fn main() -> ExitCode {
    let Some(layers) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: bench LAYERS, by way of `make bench`");
        return ExitCode::FAILURE;
    };
    let Some(peers) = Peers::find() else {
        eprintln!("bench: no peers; run tests/peers");
        return ExitCode::FAILURE;
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let bench = Bench {
        peers,
        layers,
        samples: variable("BENCH_N").parse().unwrap_or(30),
    };
    let (suite, only) = (variable("BENCH_SUITE"), variable("BENCH_ONLY"));
    let mut rows = Vec::new();
    let mut failed: Vec<&str> = Vec::new();
    for group in GROUPS {
        let wanted = group.names.iter().any(|name| name.starts_with(&only));
        if !wanted || !(suite.is_empty() || suite == group.suite) {
            continue;
        }
        eprintln!("bench: {}", group.names.join(" "));
        // One measurement that cannot be made must not hide the others.
        match std::panic::catch_unwind(AssertUnwindSafe(|| (group.measure)(&bench))) {
            Ok(measured) => rows.extend(measured.into_iter().map(|row| (group.suite, row))),
            Err(_) => failed.extend(group.names),
        }
    }
    rows.retain(|(_, row)| row.name.starts_with(&only));
    let mut whole: Vec<&str> = Vec::new();
    if only.is_empty() && failed.is_empty() {
        whole.extend(rows.iter().map(|(suite, _)| *suite));
        whole.dedup();
    }
    if let Err(error) = report::publish(&rows, &whole) {
        eprintln!("bench: {error:#}");
        return ExitCode::FAILURE;
    }
    if !failed.is_empty() {
        eprintln!("bench: not measured: {}", failed.join(" "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
