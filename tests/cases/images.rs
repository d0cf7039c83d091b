//! Pulling, pushing, importing, exporting and tagging by upstream's clients.

use tests::{Ctr, Daemon, Engine, Image, Peers, Registry};

use crate::ctr::{same_without_shim, table};

/// What a namespace has: images, blobs with their labels, snapshots with their parents.
#[derive(Debug, PartialEq)]
struct Holdings {
    images: Vec<Vec<String>>,
    content: Vec<Vec<String>>,
    snapshots: Vec<Vec<String>>,
    leases: String,
    ingests: Vec<Vec<String>>,
}

fn holdings(ctr: &Ctr, registry: &Registry) -> Holdings {
    let content = ctr.ok(&["content", "ls"]).replace(&registry.host(), "HOST");
    let content = content.lines().skip(1).map(|line| {
        let words: Vec<&str> = line.split('\t').filter(|word| !word.is_empty()).collect();
        let mut labels: Vec<&str> = words.last().unwrap_or(&"").split(',').collect();
        labels.sort_unstable();
        vec![words[0].to_owned(), labels.join(",")]
    });
    Holdings {
        images: table(
            &ctr.ok(&["images", "ls"]).replace(&registry.host(), "HOST"),
            &[0, 1, 2, 3, 4, 5],
        ),
        content: content.collect(),
        snapshots: table(&ctr.ok(&["snapshots", "ls"]), &[0, 1, 2]),
        leases: ctr.ok(&["leases", "ls", "-q"]),
        ingests: table(&ctr.ok(&["content", "active"]), &[0]),
    }
}

#[test]
fn a_pull_over_the_transfer_service_leaves_what_it_leaves_upstream() {
    let registry = Registry::start();
    let reference = registry.push("library/many", "1", &Image::many_layers(3, 200_000));
    same_without_shim(|daemon| {
        let ctr = daemon.ctr();
        ctr.ok(&["images", "pull", "--plain-http", &reference]);
        let once = holdings(&ctr, &registry);
        ctr.ok(&["images", "pull", "--plain-http", &reference]);
        let mount = daemon.folder().join("mount").display().to_string();
        std::fs::create_dir(&mount).unwrap();
        ctr.ok(&["images", "mount", &reference, &mount]);
        let tree = tree(&mount);
        ctr.ok(&["images", "unmount", &mount]);
        (once, tree)
    });
}

/// Returns what `find` and `cksum` say of a folder.
fn tree(folder: &str) -> String {
    let script = "find . -printf '%p %y %m %U %G %T@ %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0 cksum";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).current_dir(folder);
    tests::command::run(&mut command).ok()
}

#[test]
fn an_old_client_pulls_by_itself_into_content_and_snapshots() {
    let registry = Registry::start();
    let reference = registry.push("library/many", "1", &Image::many_layers(2, 50_000));
    same_without_shim(|daemon| {
        let ctr = daemon.old_ctr();
        ctr.ok(&["images", "pull", "--plain-http", &reference]);
        holdings(&ctr, &registry)
    });
}

/// Fails unless a namespace has nothing at all.
#[track_caller]
fn assert_empty(ctr: &Ctr) {
    for args in [
        &["images", "ls", "-q"][..],
        &["content", "ls", "-q"],
        &["leases", "ls", "-q"],
    ] {
        assert_eq!(ctr.ok(args), "", "{args:?}");
    }
    for args in [&["snapshots", "ls"][..], &["content", "active"]] {
        assert_eq!(ctr.ok(args).lines().count(), 1, "{args:?}");
    }
}

#[test]
fn a_broken_layer_is_refused_and_leaves_nothing() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let registry = Registry::start();
    let daemon = Daemon::start(Engine::Corten, &peers);
    let ctr = daemon.ctr();
    let mut image = Image::many_layers(2, 10_000);
    // The digest of the layer is right, what it holds is no archive.
    let bytes = tests::image::gzip(b"this is no archive, but long enough to be read as one");
    image.layers[1] = tests::image::Blob::new(&image.layers[1].media_type, bytes);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    manifest["layers"][1] = image.layers[1].descriptor();
    let bytes = serde_json::to_vec(&manifest).unwrap();
    image.manifest = tests::image::Blob::new(&image.manifest.media_type, bytes);
    let reference = registry.push("library/broken", "1", &image);
    ctr.run(&["images", "pull", "--plain-http", &reference])
        .refused();
    assert_empty(&ctr);
}
