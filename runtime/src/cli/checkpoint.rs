//! `checkpoint`: writes a container's processes to disk, and deletes it unless it is to go on.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use runtime::{CgroupsMode, CheckpointOptions, CriuOptions, check_empty_namespaces};
use rustix::fs::OFlags;
use sys::{Context, Error, Kind, Result};

use super::Global;

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Folder of the image; "checkpoint" in the working folder if there is none
    #[arg(long)]
    image_path: Option<PathBuf>,
    /// Folder of logs and statistics
    #[arg(long)]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow Unix sockets that are connected to processes outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session and a terminal of outside
    #[arg(long)]
    shell_job: bool,
    /// Allow locked files
    #[arg(long)]
    file_locks: bool,
    /// What becomes of control groups: soft, full, strict or ignore
    #[arg(long, default_value = "", hide_default_value = true)]
    manage_cgroups_mode: String,
    /// Namespace that is restored without its properties
    #[arg(long)]
    empty_ns: Vec<String>,
    /// Remove pages of earlier images that a later one has too
    #[arg(long)]
    auto_dedup: bool,
    /// Send pages once the restored processes ask for them
    #[arg(long)]
    lazy_pages: bool,
}

/// Flags of `checkpoint`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Name of the container
    id: String,
    /// Folder of an earlier image, relative to the image's
    #[arg(long)]
    parent_path: Option<PathBuf>,
    /// Let the processes go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Leave out TCP connections that are being made
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Give files without a name one, by which they are found again
    #[arg(long)]
    link_remap: bool,
    /// Descriptor that gets a zero byte once lazy pages are served
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    status_fd: i32,
    /// Server that gets the pages, as ADDRESS:PORT
    #[arg(long)]
    page_server: Option<String>,
    /// Write memory only, while the processes go on
    #[arg(long)]
    pre_dump: bool,
}

/// Checkpoints a container.
pub(super) fn run(global: &Global, args: &Args) -> Result<u8> {
    let container = global.load(&args.id)?;
    let server = args.page_server.as_deref().filter(|text| !text.is_empty());
    let options = CheckpointOptions {
        criu: args.common.options()?,
        parent: args
            .parent_path
            .clone()
            .filter(|path| path != Path::new("")),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server: server.map(parse_server).transpose()?,
        status: match args.status_fd {
            -1 => None,
            number => Some(status(number)?),
        },
    };
    container.checkpoint(&options)?;
    if !options.leave_running && !options.pre_dump {
        container.delete(true)?;
    }
    Ok(0)
}

impl Common {
    /// Returns the library's options.
    pub fn options(&self) -> Result<CriuOptions> {
        check_empty_namespaces(&self.empty_ns)?;
        let named = |path: &Option<PathBuf>| path.clone().filter(|path| path != Path::new(""));
        Ok(CriuOptions {
            image: named(&self.image_path).unwrap_or_else(|| PathBuf::from("checkpoint")),
            work: named(&self.work_path),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups: CgroupsMode::parse(&self.manage_cgroups_mode)?,
        })
    }
}

/// Splits an address, which may be one of IPv6 in brackets, from its port.
fn parse_server(text: &str) -> Result<(String, u16)> {
    let invalid = |message| Error::new(Kind::InvalidArgument, message);
    let usage = || invalid("Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(usage)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if address.is_empty() || port.is_empty() {
        return Err(usage());
    }
    let port = port.parse().map_err(|_| invalid("Invalid port number"))?;
    Ok((address.to_owned(), port))
}

/// Takes a copy of the descriptor that the caller has passed on to be written to.
fn status(number: i32) -> Result<OwnedFd> {
    let what = || format!("invalid --status-fd argument {number}");
    let copy = sys::process::inherited(number).context(what)?;
    let flags = rustix::fs::fcntl_getfl(&copy).context(what)?;
    if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
        return Ok(copy);
    }
    let message = format!("{}: not writable", what());
    Err(Error::new(Kind::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        let server = |text| parse_server(text).ok();
        assert_eq!(server("0.0.0.0:27"), Some(("0.0.0.0".to_owned(), 27)));
        assert_eq!(server("[::1]:27"), Some(("::1".to_owned(), 27)));
        for text in ["", "host", "host:", ":27", "host:x", "host:70000"] {
            assert_eq!(server(text), None, "{text:?}");
        }
    }
}
