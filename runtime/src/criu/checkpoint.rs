//! Checkpoint: a container's processes written to disk.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::OFlags;
use sys::{Context, Error, Kind, Result};

use super::rpc::{self, Features, Notify};
use super::session::{Session, with_log};
use super::{CheckpointOptions, DESCRIPTORS, Folders};
use crate::record::Record;
use crate::{rootfs, spec};

const LOG: &str = "dump.log";

/// Writes the processes of the container to disk.
pub(crate) fn checkpoint(record: &Record, options: &CheckpointOptions) -> Result<()> {
    super::make_folder(&options.criu.image)?;
    if let Some(parent) = &options.parent {
        check_parent(&options.criu.image, parent)?;
    }
    let folders = Folders::open(&options.criu)?;
    let request = request(record, options, &folders)?;
    let kind = match options.pre_dump {
        true => rpc::Kind::SinglePreDump,
        false => {
            write_descriptors(record, &options.criu.image)?;
            rpc::Kind::Dump
        }
    };
    let session = Session::start(&[], &[])?;
    if options.pre_dump || options.criu.lazy_pages {
        session.require(Features {
            mem_track: Some(options.pre_dump),
            lazy_pages: Some(options.criu.lazy_pages),
        })?;
    }
    session
        .run(kind, request, |notify, _| {
            notified(notify, options.status.as_ref())
        })
        .map_err(|error| with_log(error, &folders.logs, LOG))
}

fn request(
    record: &Record,
    options: &CheckpointOptions,
    folders: &Folders,
) -> Result<rpc::Options> {
    let spec = &record.spec;
    let parent = options.parent.as_deref();
    let server = options.page_server.as_ref();
    Ok(rpc::Options {
        pid: Some(record.pid),
        root: Some(super::text(&record.rootfs)?),
        leave_running: Some(options.leave_running),
        tcp_skip_in_flight: Some(options.tcp_skip_in_flight),
        link_remap: Some(options.link_remap),
        parent_img: parent.map(super::text).transpose()?,
        track_mem: parent.map(|_| true),
        page_server: server.map(|(address, port)| rpc::PageServer {
            address: Some(address.clone()),
            port: Some(i32::from(*port)),
        }),
        freeze_cgroup: record.cgroup.freezer_path().map(super::text).transpose()?,
        external: external_namespaces(spec)?,
        // Of a pre-dump only memory is kept.
        external_mounts: match options.pre_dump {
            true => Vec::new(),
            false => external_mounts(record)?,
        },
        ..super::request(&options.criu, folders, LOG, spec)
    })
}

fn check_parent(image: &Path, parent: &Path) -> Result<()> {
    let invalid = |message: String| Err(Error::new(Kind::InvalidArgument, message));
    if parent.is_absolute() {
        return invalid("--parent-path must be relative".to_owned());
    }
    let parent = image.join(parent);
    match parent.metadata() {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => invalid(format!("invalid --parent-path: {parent:?} is no folder")),
        Err(error) => {
            Err(error).context(|| format!("invalid --parent-path: stat {}", parent.display()))
        }
    }
}

/// Returns the namespaces that the container has joined, which are not to be in the images.
fn external_namespaces(spec: &Spec) -> Result<Vec<String>> {
    let mut external = Vec::new();
    for (kind, path) in spec::namespaces(spec) {
        let (Some(path), Some(key)) = (path, super::external_name(kind)) else {
            continue;
        };
        let data = path
            .metadata()
            .context(|| format!("stat namespace {path:?}"))?;
        let name = super::name(kind)?;
        external.push(format!("{name}[{}]:{key}", data.ino()));
    }
    Ok(external)
}

/// Returns the mounts of which the images get nothing but a name.
fn external_mounts(record: &Record) -> Result<Vec<rpc::ExternalMount>> {
    let mut mounts = Vec::new();
    for mount in rootfs::external(record)? {
        let target = super::text(&mount.target)?;
        mounts.push(rpc::ExternalMount {
            key: target.clone(),
            value: target,
        });
    }
    let inside = rootfs::open_of_process(record.pid)?;
    let linux = record.spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_deref());
    for path in masked.into_iter().flatten() {
        // Folders are masked by a file system of their own, files by the null device.
        let Ok(file) = inside.open(Path::new(path), OFlags::PATH) else {
            continue;
        };
        let stat = rustix::fs::fstat(&file).context(|| format!("stat {path:?}"))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            mounts.push(rpc::ExternalMount {
                key: path.clone(),
                value: rootfs::NULL.to_owned(),
            });
        }
    }
    Ok(mounts)
}

/// Writes down what stdio was, of which pipes have to be there again.
fn write_descriptors(record: &Record, image: &Path) -> Result<()> {
    let text = serde_json::to_vec(&record.descriptors)
        .map_err(|error| Error::other("encode descriptors", error))?;
    sys::fs::write_volatile(&image.join(DESCRIPTORS), &text, 0o600)
}

fn notified(notify: &Notify, status: Option<&OwnedFd>) -> Result<()> {
    match (notify.script.as_deref(), status) {
        (Some("status-ready"), Some(status)) => rustix::io::write(status.as_fd(), &[0])
            .context(|| "say that lazy pages are served")
            .map(drop),
        _ => Ok(()),
    }
}
