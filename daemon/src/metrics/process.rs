//! What the daemon itself uses, as procfs tells it.

use std::fs;
use std::path::Path;

/// Ticks of processor time in a second: the same for user space on every architecture of Linux that this runs on.
const TICKS: f64 = 100.0;

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub descriptors: u64,
    pub max_descriptors: u64,
}

impl Usage {
    /// Reads it; what cannot be read is zero.
    pub fn read() -> Self {
        let own = Path::new("/proc/self");
        let text = |name: &str| fs::read_to_string(own.join(name)).unwrap_or_default();
        let status = text("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or_default()
        };
        let limits = text("limits");
        let open_files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let limit = open_files.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self {
            cpu_seconds: cpu_seconds(&text("stat")).unwrap_or_default(),
            resident_bytes: field("VmRSS:") << 10,
            virtual_bytes: field("VmSize:") << 10,
            threads: field("Threads:"),
            descriptors: fs::read_dir(own.join("fd")).map_or(0, |fds| fds.count() as u64),
            max_descriptors: limit.unwrap_or_default(),
        }
    }
}

/// Returns the processor time that a line of `/proc/PID/stat` tells.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program may hold anything; fields are counted from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::read();
        assert!(usage.resident_bytes > 0 && usage.virtual_bytes >= usage.resident_bytes);
        assert!(usage.threads > 0 && usage.descriptors > 0);
        assert!(usage.max_descriptors >= usage.descriptors);
    }

    #[test]
    fn names_of_programs_do_not_disturb_the_count() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 1 0 9 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
