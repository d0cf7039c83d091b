//! Pull and unpack of the large image from a registry on loopback, into a fresh root each time.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use tests::daemon::Engine;
use tests::image::{self, Blob};
use tests::{Daemon, Image, Registry};

use crate::Bench;
use crate::engine::upstream;
use crate::report::Row;
use crate::sample;

/// Rows of [`gzip`].
pub const GZIP: &[&str] = &["pull-gzip", "pull-gzip-cpu"];
/// Rows of [`zstd`].
pub const ZSTD: &[&str] = &["pull-zstd", "pull-zstd-cpu"];

/// Measures wall time of the client and processor time of the daemon with layers compressed as most are.
pub fn gzip(bench: &Bench) -> Vec<Row> {
    measure(bench, GZIP, &gzip_image(bench), Some(0.7))
}

/// Returns the large image with its layers as they are.
pub fn gzip_image(bench: &Bench) -> Image {
    let mut recipe = Image::busybox_recipe();
    for layer in layers(bench) {
        recipe = recipe.gzip_layer(fs::read(layer).expect("read a layer"));
    }
    recipe.build()
}

/// Measures the same with the layers compressed by zstd.
pub fn zstd(bench: &Bench) -> Vec<Row> {
    let mut recipe = Image::busybox_recipe();
    for layer in layers(bench) {
        let mut tar = Vec::new();
        let packed = fs::read(layer).expect("read a layer");
        GzDecoder::new(&packed[..])
            .read_to_end(&mut tar)
            .expect("a layer is gzip");
        let packed = zstd::encode_all(&tar[..], 3).expect("compress to memory");
        let blob = Blob::new("application/vnd.oci.image.layer.v1.tar+zstd", packed);
        recipe = recipe.packed_layer(image::digest(&tar), blob);
    }
    measure(bench, ZSTD, &recipe.build(), None)
}

fn layers(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(&bench.layers).expect("list the layers");
    let mut layers: Vec<PathBuf> = entries
        .map(|entry| entry.expect("list the layers").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .collect();
    layers.sort();
    layers
}

fn measure(bench: &Bench, names: &[&'static str], image: &Image, goal: Option<f64>) -> Vec<Row> {
    let registry = Registry::start();
    let reference = registry.push("large", "latest", image);
    let mut wall = [Vec::new(), Vec::new()];
    let mut cpu = [Vec::new(), Vec::new()];
    let engines = [Engine::Corten, Engine::Containerd2];
    // Round 0 warms the registry's pages and is not counted.
    for round in 0..=bench.samples {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let daemon = Daemon::start(engines[which], &bench.peers);
            let pull = ["images", "pull", "--plain-http", &reference];
            // What the sample before has left to be written is not this one's.
            rustix::fs::sync();
            let before = processor_seconds(daemon.pid());
            let taken = sample::seconds(&mut daemon.ctr().command(&pull));
            if round > 0 {
                wall[which].push(taken);
                cpu[which].push(processor_seconds(daemon.pid()) - before);
            }
        }
    }
    let [ours, peer] = wall.map(sample::median);
    let mut row = Row::new(names[0], "s", ours, peer).peer("containerd", &upstream(bench));
    row.goal = goal;
    let [ours, peer] = cpu.map(sample::median);
    vec![
        row,
        Row::new(names[1], "s", ours, peer).peer("containerd", &upstream(bench)),
    ]
}

/// Returns the user and system time of a process with all its threads and the children it has waited for.
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let after = stat.rsplit(')').next().unwrap_or_default();
    // utime, stime, cutime and cstime are fields 14 to 17; the first one after the name is field 3.
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // The unit of this file is the same on every architecture.
    ticks as f64 / 100.0
}
