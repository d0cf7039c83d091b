//! What clients should not ask for, what they leave unfinished, and a disk that is full: each gets a clear answer, and
//! nothing is left half-made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_protos::containerd::services::containers::v1::{
    Container, CreateContainerRequest, GetContainerRequest, ListContainersRequest, container,
};
use api_protos::containerd::services::content::v1::{
    AbortRequest, InfoRequest, ListStatusesRequest, WriteAction, WriteContentRequest,
};
use api_protos::containerd::services::events::v1::SubscribeRequest;
use api_protos::containerd::services::images::v1::{
    CreateImageRequest, GetImageRequest, Image as Record, ListImagesRequest,
};
use api_protos::containerd::services::leases::v1::{
    CreateRequest as CreateLease, DeleteRequest as DeleteLease, ListRequest as ListLeases,
};
use api_protos::containerd::services::namespaces::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, Namespace,
};
use api_protos::containerd::services::snapshots::v1::{
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use api_protos::containerd::services::tasks::v1::{GetRequest as GetTask, WaitRequest};
use api_protos::containerd::types::Descriptor;
use prost_types::Any;
use tests::{Api, Daemon, Engine, Image, Peers, eventually, image};
use tonic::{Code, Response, Status};

const SN: &str = "overlayfs";
const SOON: Duration = Duration::from_secs(20);

fn ours() -> Option<Daemon> {
    let peers = Peers::or_skip()?;
    Some(Daemon::start(Engine::Corten, &peers))
}

/// Fails unless a call was refused with `code` and words that contain `wanted`.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: Code, wanted: &str) {
    let status = answer.expect_err("it must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(wanted), "{status:?}");
}

fn named(id: &str) -> CreateContainerRequest {
    let container = Container {
        id: id.into(),
        runtime: Some(container::Runtime {
            name: "io.containerd.runc.v2".into(),
            options: None,
        }),
        spec: Some(Any::default()),
        ..Default::default()
    };
    CreateContainerRequest {
        container: Some(container),
    }
}

fn image_named(name: &str, digest: &str) -> CreateImageRequest {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: digest.into(),
        size: 1,
        ..Default::default()
    };
    let image = Record {
        name: name.into(),
        target: Some(target),
        ..Default::default()
    };
    CreateImageRequest {
        image: Some(image),
        ..Default::default()
    }
}

fn prepare(key: &str, parent: &str) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest {
        snapshotter: SN.into(),
        key: key.into(),
        parent: parent.into(),
        ..Default::default()
    }
}

fn write(reference: &str, action: WriteAction, offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: reference.into(),
        offset,
        data: data.to_vec().into(),
        ..Default::default()
    }
}

/// Sends these requests in one write stream and returns the last answer.
async fn send(
    api: &Api,
    requests: Vec<WriteContentRequest>,
) -> Result<Response<Option<i64>>, Status> {
    let requests = futures_util::stream::iter(requests);
    let mut answers = api.content().write(requests).await?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await? {
        last = Some(answer.offset);
    }
    Ok(Response::new(last))
}

#[test]
fn every_call_needs_a_namespace_that_may_be_one() {
    let Some(daemon) = ours() else {
        return;
    };
    for (namespace, code, wanted) in [
        ("", Code::FailedPrecondition, "namespace is required"),
        ("a/b", Code::InvalidArgument, "must match"),
        ("-", Code::InvalidArgument, "must match"),
    ] {
        let api = Api::new(&daemon, namespace);
        api.run(async {
            let list = ListContainersRequest::default();
            refused(api.containers().list(list).await, code, wanted);
            let list = ListImagesRequest::default();
            refused(api.images().list(list).await, code, wanted);
            let list = ListLeases::default();
            refused(api.leases().list(list).await, code, wanted);
            let list = ListStatusesRequest::default();
            refused(api.content().list_statuses(list).await, code, wanted);
            refused(
                api.snapshots().prepare(prepare("k", "")).await,
                code,
                wanted,
            );
            let get = GetTask::default();
            refused(api.tasks().get(get).await, code, wanted);
        });
    }
    let api = Api::new(&daemon, "default");
    api.run(async {
        let name = "nowhere".to_owned();
        let got = api.namespaces().get(GetNamespaceRequest { name }).await;
        let namespace = got.unwrap().into_inner().namespace.unwrap();
        assert_eq!(namespace.name, "nowhere");
        assert!(namespace.labels.is_empty());
        let delete = DeleteNamespaceRequest {
            name: "nowhere".into(),
        };
        let deleted = api.namespaces().delete(delete).await;
        refused(deleted, Code::NotFound, "not found");
    });
}

#[test]
fn what_is_there_already_is_not_made_again() {
    let Some(daemon) = ours() else {
        return;
    };
    let api = Api::new(&daemon, &daemon.namespace);
    let digest = image::digest(b"target");
    api.run(async {
        let namespace = || CreateNamespaceRequest {
            namespace: Some(Namespace {
                name: "twice".into(),
                ..Default::default()
            }),
        };
        let lease = || CreateLease {
            id: "l".into(),
            ..Default::default()
        };
        api.namespaces().create(namespace()).await.unwrap();
        api.containers().create(named("c")).await.unwrap();
        let image = || image_named("i", &digest);
        api.images().create(image()).await.unwrap();
        api.snapshots().prepare(prepare("s", "")).await.unwrap();
        api.leases().create(lease()).await.unwrap();
        let (code, wanted) = (Code::AlreadyExists, "already exists");
        refused(api.namespaces().create(namespace()).await, code, wanted);
        refused(api.containers().create(named("c")).await, code, wanted);
        refused(api.images().create(image()).await, code, wanted);
        refused(
            api.snapshots().prepare(prepare("s", "")).await,
            code,
            wanted,
        );
        refused(api.leases().create(lease()).await, code, wanted);
    });
}

#[test]
fn names_that_are_none_and_names_of_nothing_are_told_apart() {
    let Some(daemon) = ours() else {
        return;
    };
    let api = Api::new(&daemon, &daemon.namespace);
    let (invalid, missing) = (Code::InvalidArgument, Code::NotFound);
    api.run(async {
        for id in ["", "a/b", "../../etc", &"a".repeat(77)] {
            let created = api.containers().create(named(id)).await;
            refused(created, invalid, "invalid argument");
        }
        for digest in [
            "",
            "sha256:",
            "sha256:zz",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
        ] {
            let info = InfoRequest {
                digest: digest.into(),
            };
            refused(api.content().info(info).await, invalid, "invalid argument");
            let created = api.images().create(image_named("i", digest)).await;
            refused(created, invalid, "invalid argument");
        }
        let mut unknown = prepare("s", "");
        unknown.snapshotter = "nothing".into();
        let prepared = api.snapshots().prepare(unknown).await;
        refused(prepared, invalid, "snapshotter not loaded: nothing");
        let prepared = api.snapshots().prepare(prepare("s", "p")).await;
        refused(prepared, missing, "not found");
        let get = GetContainerRequest { id: "c".into() };
        refused(api.containers().get(get).await, missing, "not found");
        let get = GetImageRequest { name: "i".into() };
        refused(api.images().get(get).await, missing, "not found");
        let info = InfoRequest {
            digest: image::digest(b"no"),
        };
        refused(api.content().info(info).await, missing, "not found");
        let stat = StatSnapshotRequest {
            snapshotter: SN.into(),
            key: "s".into(),
        };
        refused(api.snapshots().stat(stat).await, missing, "not found");
        let delete = DeleteLease {
            id: "l".into(),
            ..Default::default()
        };
        refused(api.leases().delete(delete).await, missing, "not found");
        let get = GetTask {
            container_id: "c".into(),
            ..Default::default()
        };
        refused(api.tasks().get(get).await, missing, "not found");
        let odd = ListImagesRequest {
            filters: vec!["name===a".into()],
        };
        refused(api.images().list(odd).await, invalid, "filters");
        let odd = SubscribeRequest {
            filters: vec!["topic~=/open".into()],
        };
        refused(api.events().subscribe(odd).await, invalid, "filters");
    });
}

#[test]
fn writes_that_do_not_fit_together_are_refused_and_can_be_resumed() {
    let Some(daemon) = ours() else {
        return;
    };
    let api = Api::new(&daemon, &daemon.namespace);
    api.run(async {
        let nameless = write("", WriteAction::Stat, 0, b"");
        let sent = send(&api, vec![nameless]).await;
        refused(
            sent,
            Code::InvalidArgument,
            "first message must have a reference",
        );
        let first = write("r", WriteAction::Write, 0, b"hello");
        let gap = write("r", WriteAction::Write, 9, b"!");
        let sent = send(&api, vec![first, gap]).await;
        refused(
            sent,
            Code::OutOfRange,
            "write @9 must occur at current offset 5",
        );
        let mut wrong = write("r", WriteAction::Commit, 5, b"");
        wrong.expected = image::digest(b"other");
        let sent = send(&api, vec![wrong]).await;
        refused(sent, Code::FailedPrecondition, "unexpected commit digest");
        let mut short = write("r", WriteAction::Commit, 5, b"");
        short.total = 7;
        let sent = send(&api, vec![short]).await;
        refused(sent, Code::FailedPrecondition, "failed size validation");
    });
}

/// Returns how many descriptors and threads a process has.
fn held(pid: u32) -> (usize, usize) {
    let count = |what: &str| {
        let folder = fs::read_dir(format!("/proc/{pid}/{what}"));
        folder.map_or(0, Iterator::count)
    };
    (count("fd"), count("task"))
}

#[test]
fn a_thousand_clients_that_vanish_leave_nothing_behind() {
    let Some(daemon) = ours() else {
        return;
    };
    let archive = Image::busybox().write_archive(daemon.folder(), "example.org/busybox:1");
    let ctr = daemon.ctr();
    let archive = archive.display().to_string();
    ctr.ok(&["images", "import", "--local", &archive]);
    let shim = daemon.peers.sid.join("containerd-shim-runc-v2");
    let shim = shim.display().to_string();
    let image = "example.org/busybox:1";
    ctr.ok(&["run", "-d", "--runtime", &shim, image, "c", "sleep", "1000"]);
    let vanish = |count: usize| {
        for number in 0..count {
            // A connection of its own, which goes with everything that was asked over it.
            let api = Api::new(&daemon, &daemon.namespace);
            api.run(async {
                let open = futures_util::stream::pending::<WriteContentRequest>();
                let first = write(&format!("v{}", number % 7), WriteAction::Write, 0, b"some");
                let first = futures_util::stream::iter([first]);
                let requests = futures_util::StreamExt::chain(first, open);
                let mut content = api.content();
                let written = content.write(requests);
                let mut tasks = api.tasks();
                let wait = WaitRequest {
                    container_id: "c".into(),
                    ..Default::default()
                };
                let mut events = api.events();
                let subscribed = events.subscribe(SubscribeRequest::default());
                let all = async { tokio::join!(written, subscribed, tasks.wait(wait)) };
                // None of the three ends by itself; the moment at which they are left differs.
                let moment = Duration::from_millis(1 + number as u64 % 5);
                let _ = tokio::time::timeout(moment, all).await;
            });
        }
    };
    vanish(20);
    std::thread::sleep(Duration::from_millis(500));
    let base = held(daemon.pid());
    vanish(1000);
    eventually("descriptors and threads are back at the base", SOON, || {
        let now = held(daemon.pid());
        (now.0 <= base.0 + 3 && now.1 <= base.1 + 3).then_some(())
    });
    let api = Api::new(&daemon, &daemon.namespace);
    api.run(async {
        // What was written is there for whoever resumes it, and nobody holds its lock.
        let mut content = api.content();
        let listed = content.list_statuses(ListStatusesRequest::default()).await;
        let statuses = listed.unwrap().into_inner().statuses;
        for status in statuses
            .iter()
            .filter(|status| status.r#ref.starts_with('v'))
        {
            let again = write(&status.r#ref, WriteAction::Write, 0, b"whole");
            assert_eq!(send(&api, vec![again]).await.unwrap().into_inner(), Some(5));
            let reference = status.r#ref.clone();
            content
                .abort(AbortRequest { r#ref: reference })
                .await
                .unwrap();
        }
    });
    ctr.ok(&["tasks", "delete", "--force", "c"]);
    ctr.ok(&["containers", "rm", "c"]);
    daemon.assert_nothing_left();
}

/// A daemon whose root is a file system of its own, of a few megabytes.
struct Small {
    daemon: Daemon,
    root: PathBuf,
}

impl Small {
    fn new() -> Option<Self> {
        let mut daemon = ours()?;
        daemon.kill();
        let root = daemon.folder().join("root");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(&root)
            .status();
        assert!(mounted.expect("run mount").success(), "mount a tmpfs");
        daemon.restart();
        Some(Self { daemon, root })
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        let mut size = 1 << 20;
        let mut file = fs::File::create(self.filler()).expect("make a file");
        while size > 0 {
            match std::io::Write::write(&mut file, &vec![7; size]) {
                Ok(written) if written > 0 => {}
                _ => size /= 2,
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("remove the file");
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.daemon.terminate();
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.root, flags);
    }
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn a_full_disk_is_said_to_be_full_and_harms_nothing() {
    let Some(small) = Small::new() else {
        return;
    };
    let api = Api::new(&small.daemon, &small.daemon.namespace);
    let full = Code::ResourceExhausted;
    let kept = image::digest(b"kept");
    let blobs = small
        .root
        .join("io.containerd.content.v1.content/blobs/sha256");
    api.run(async {
        // What nothing refers to may be collected at any time.
        let root = HashMap::from([("containerd.io/gc.root".to_owned(), "now".to_owned())]);
        let mut commit = write("kept", WriteAction::Commit, 0, b"kept");
        commit.labels = root.clone();
        let rooted = |key: &str| PrepareSnapshotRequest {
            labels: root.clone(),
            ..prepare(key, "")
        };
        send(&api, vec![commit]).await.unwrap();
        api.snapshots().prepare(rooted("before")).await.unwrap();

        small.fill();
        let large = vec![1; 1 << 20];
        let writes = (0..8).map(|part| write("large", WriteAction::Write, part << 20, &large));
        refused(send(&api, writes.collect()).await, full, "No space left");
        refused(
            api.snapshots().prepare(prepare("after", "")).await,
            full,
            "No space left",
        );
        let mut acknowledged = Vec::new();
        let mut number = 0;
        let status = loop {
            let mut request = named(&format!("c{number}"));
            let container = request.container.as_mut().unwrap();
            container.labels.insert("filler".into(), "x".repeat(4000));
            match api.containers().create(request).await {
                Ok(_) => acknowledged.push(format!("c{number}")),
                Err(status) => break status,
            }
            number += 1;
            assert!(number < 20_000, "the disk is never full");
        };
        assert_eq!(status.code(), full, "{status:?}");

        // Whoever only looks is served as ever.
        let listed = api
            .containers()
            .list(ListContainersRequest::default())
            .await;
        let ids: Vec<String> = listed
            .unwrap()
            .into_inner()
            .containers
            .into_iter()
            .map(|c| c.id)
            .collect();
        assert_eq!(ids.len(), acknowledged.len());
        let stat = |key: &str| StatSnapshotRequest {
            snapshotter: SN.into(),
            key: key.into(),
        };
        let stated = api.snapshots().stat(stat("after")).await;
        refused(stated, Code::NotFound, "not found");

        small.make_room();
        let commit = write("large", WriteAction::Commit, 0, b"small after all");
        send(&api, vec![commit]).await.unwrap();
        api.snapshots().prepare(rooted("after")).await.unwrap();
        api.containers().create(named("new")).await.unwrap();
        for id in &acknowledged {
            let get = GetContainerRequest { id: id.clone() };
            api.containers().get(get).await.unwrap();
        }
        let info = InfoRequest {
            digest: kept.clone(),
        };
        assert_eq!(
            api.content()
                .info(info)
                .await
                .unwrap()
                .into_inner()
                .info
                .unwrap()
                .size,
            4
        );
        for key in ["before", "after"] {
            api.snapshots().stat(stat(key)).await.unwrap();
            let remove = RemoveSnapshotRequest {
                snapshotter: SN.into(),
                key: key.into(),
            };
            api.snapshots().remove(remove).await.unwrap();
        }
    });
    assert!(files(&blobs) <= 2, "whole blobs only");
    let folders = small
        .root
        .join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    eventually("no snapshot has left its folder", SOON, || {
        (files(&folders) == 0).then_some(())
    });
}
