//! Pulling, pushing, importing, exporting and tagging by upstream's clients.

use std::time::Duration;

use tests::{Ctr, Daemon, Engine, Image, Peers, Registry, eventually};

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
    // The time of a folder that no layer describes is that of the pull.
    let script = "find . -printf '%p %y %m %U %G %l\\n' | sort; find . ! -type d -printf '%p %T@\\n' | sort; find . -type f -print0 | sort -z | xargs -0 cksum";
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

#[test]
fn archives_are_imported_and_exported_over_the_transfer_service() {
    same_without_shim(|daemon| {
        let ctr = daemon.ctr();
        let image = Image::many_layers(2, 30_000);
        let oci = image.write_archive(daemon.folder(), "example.org/many:1");
        let docker = image.write_docker_archive(daemon.folder(), "short");
        let compressed = daemon.folder().join("compressed.tar.gz");
        std::fs::write(
            &compressed,
            tests::image::gzip(&std::fs::read(&oci).unwrap()),
        )
        .unwrap();
        let import = |archive: &std::path::Path| {
            ctr.ok(&["images", "import", &archive.display().to_string()]);
            let images = table(&ctr.ok(&["images", "ls"]), &[0, 1, 2]);
            let snapshots = table(&ctr.ok(&["snapshots", "ls"]), &[0, 1, 2]);
            let exported = daemon.folder().join("exported.tar");
            let path = exported.display().to_string();
            let names: Vec<&str> = images
                .iter()
                .filter(|row| row[0] != "REF")
                .map(|row| row[0].as_str())
                .collect();
            let contents: Vec<_> = names
                .iter()
                .map(|name| {
                    ctr.ok(&["images", "export", &path, name]);
                    let listed = listing(&path);
                    std::fs::remove_file(&exported).unwrap();
                    listed
                })
                .collect();
            for name in &names {
                ctr.ok(&["images", "rm", "--sync", name]);
            }
            (images, snapshots, contents)
        };
        [import(&oci), import(&docker), import(&compressed)]
    });
}

/// Returns the names, modes and digests of an archive's files.
fn listing(archive: &str) -> Vec<String> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).expect("open the archive"));
    let mut listed = Vec::new();
    for entry in archive.entries().expect("read the archive") {
        let mut entry = entry.expect("read an entry");
        let path = entry.path().expect("read a path").display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read a file");
        // The order of keys is nobody's business.
        let digest = match serde_json::from_slice::<serde_json::Value>(&bytes) {
            Ok(value) => value.to_string(),
            Err(_) => tests::image::digest(&bytes),
        };
        let mode = entry.header().mode().expect("read a mode") & 0o7777;
        listed.push(format!("{path} {mode:o} {digest}"));
    }
    listed.sort();
    listed
}

#[test]
fn images_are_tagged_and_pushed_and_pulled_again() {
    let registry = Registry::start();
    let reference = registry.push("library/many", "1", &Image::many_layers(2, 30_000));
    same_without_shim(|daemon| {
        let ctr = daemon.ctr();
        ctr.ok(&["images", "pull", "--plain-http", &reference]);
        let other = format!("{}/other/{}:2", registry.host(), daemon.namespace);
        ctr.ok(&["images", "tag", &reference, &other]);
        ctr.run(&["images", "tag", "example.org/nobody:1", "example.org/a:1"])
            .refused();
        ctr.ok(&["images", "push", "--plain-http", &other]);
        // Pushing what is there already is no error.
        ctr.ok(&["images", "push", "--plain-http", &other]);
        ctr.ok(&["images", "rm", "--sync", &reference, &other]);
        ctr.ok(&["images", "pull", "--plain-http", &other]);
        let images = ctr.ok(&["images", "ls"]).replace(&registry.host(), "HOST");
        table(
            &images.replace(&daemon.namespace, "NS"),
            &[0, 1, 2, 3, 4, 5],
        )
    });
}

#[test]
fn a_snapshot_is_compared_with_its_parent_as_upstream_does_it() {
    same_without_shim(|daemon| {
        let ctr = daemon.ctr();
        let archive =
            Image::many_layers(2, 10_000).write_archive(daemon.folder(), "example.org/many:1");
        ctr.ok(&["images", "import", &archive.display().to_string()]);
        let mount = daemon.folder().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let target = mount.display().to_string();
        ctr.ok(&["images", "mount", "--rw", "example.org/many:1", &target]);
        let script = "rm data/last; echo new > data/new; ln data/new data/link; ln -s new data/symlink; \
                      mkdir -p a/b; touch a/b/c; chmod 4755 bin/busybox; mkfifo fifo; mknod null c 1 3; \
                      rm -r var tmp; mkdir tmp; touch tmp/x; setcap cap_net_raw+ep data/new || true; \
                      find . -exec touch -h -d @1700000000 {} +";
        let mut change = std::process::Command::new("sh");
        change.args(["-c", script]).current_dir(&mount);
        tests::command::run(&mut change).ok();
        ctr.ok(&["images", "unmount", &target]);
        ["application/vnd.oci.image.layer.v1.tar", ""].map(|media_type| {
            let path = daemon.folder().join("layer");
            let file = std::fs::File::create(&path).unwrap();
            let mut args = vec!["snapshots", "diff"];
            if !media_type.is_empty() {
                args.extend(["--media-type", media_type]);
            }
            args.push(&target);
            let status = ctr.command(&args).stdout(file).status().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            if media_type.is_empty() {
                return (status.code(), vec![format!("{:?}", &bytes[..2])]);
            }
            (status.code(), listing(&path.display().to_string()))
        })
    });
}

#[test]
fn an_old_client_exports_and_pushes_by_itself() {
    let registry = Registry::start();
    let reference = registry.push("library/many", "1", &Image::many_layers(1, 30_000));
    same_without_shim(|daemon| {
        let ctr = daemon.old_ctr();
        ctr.ok(&["images", "pull", "--plain-http", &reference]);
        let exported = daemon.folder().join("exported.tar").display().to_string();
        ctr.ok(&["images", "export", &exported, &reference]);
        let files = listing(&exported).len();
        let other = format!("{}/old/{}:2", registry.host(), daemon.namespace);
        ctr.ok(&["images", "push", "--plain-http", &other, &reference]);
        ctr.ok(&["images", "rm", "--sync", &reference]);
        ctr.ok(&["images", "import", &exported]);
        ctr.ok(&["images", "pull", "--plain-http", &other]);
        (files, table(&ctr.ok(&["snapshots", "ls"]), &[0, 1, 2]))
    });
}

/// Fails unless a namespace has nothing at all, as soon as the collector has run.
#[track_caller]
fn assert_empty(ctr: &Ctr) {
    eventually("nothing is left", Duration::from_secs(5), || {
        let lists = [
            (&["images", "ls", "-q"][..], 0),
            (&["content", "ls", "-q"], 0),
            (&["leases", "ls", "-q"], 0),
            (&["snapshots", "ls"], 1),
            (&["content", "active"], 1),
        ];
        let mut lists = lists.iter();
        lists
            .all(|(args, lines)| ctr.ok(args).lines().count() == *lines)
            .then_some(())
    });
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
    let said = ctr
        .run(&["images", "pull", "--plain-http", &reference])
        .refused();
    eprintln!("{said}");
    assert_empty(&ctr);
}
