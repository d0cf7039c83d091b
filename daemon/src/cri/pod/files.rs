//! The files of a pod: its host name, hosts and resolver, and its shared memory.

use std::fs;
use std::path::Path;

use api_protos::runtime::v1::{DnsConfig, NamespaceMode, PodSandboxConfig};
use sys::mount::Mount;

use crate::cri::Cri;
use crate::cri::spec::sandbox::namespace_mode;
use crate::error::{Context, Result, invalid};

/// How much shared memory a pod has.
const SHM: u64 = 64 << 20;
/// How many domains a resolver may search.
const SEARCHES: usize = 32;

/// Makes the files of a pod.
pub fn create(cri: &Cri, id: &str, config: &PodSandboxConfig) -> Result<()> {
    let folder = cri.folders.pod(id);
    fs::create_dir_all(&folder).context(|| format!("make folder {folder:?}"))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).context(|| format!("write {path:?}"))
    };
    let hostname = match config.hostname.as_str() {
        "" => cri.host.hostname.as_str(),
        name => name,
    };
    write("hostname", &format!("{hostname}\n"))?;
    write("hosts", &read("/etc/hosts"))?;
    let resolver = match &config.dns_config {
        Some(dns) => resolver(dns)?,
        None => read("/etc/resolv.conf"),
    };
    write("resolv.conf", &resolver)?;
    if namespace_mode(config, |options| options.ipc) == NamespaceMode::Node {
        return Ok(());
    }
    let shm = cri.folders.shm(id);
    fs::create_dir_all(&shm).context(|| format!("make folder {shm:?}"))?;
    let options = format!("noexec,nosuid,nodev,mode=1777,size={SHM}");
    let mount = Mount {
        fstype: "tmpfs".into(),
        source: "shm".into(),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    };
    mount.mount(&shm)
}

/// Returns a file of the host, empty if it has none.
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// Returns what a resolver is told.
fn resolver(dns: &DnsConfig) -> Result<String> {
    if dns.searches.len() > SEARCHES {
        return Err(invalid(format!(
            "DNSOption.Searches has more than {SEARCHES} domains"
        )));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_told_what_the_pod_says() {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let dns = DnsConfig {
            servers: strings(&["10.0.0.10", "fd00::10"]),
            searches: strings(&["a.local", "local"]),
            options: strings(&["ndots:5"]),
        };
        assert_eq!(
            resolver(&dns).unwrap(),
            "search a.local local\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n"
        );
        assert_eq!(resolver(&DnsConfig::default()).unwrap(), "");
    }
}
