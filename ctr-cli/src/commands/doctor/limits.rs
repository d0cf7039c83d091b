//! Limits that many containers come up against, and the clock.

use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::{Finding, Severity, read};

const AREA: &str = "limits";
/// No machine that runs this is older: 2026-01-01.
const BUILT: Duration = Duration::from_secs(1_767_225_600);

/// A number of the kernel's and how small it may be.
struct Floor {
    path: &'static str,
    /// Below this containers fail.
    warn: u64,
    /// What is better, as the argument of sysctl.
    better: &'static str,
    /// What happens when it is reached.
    then: &'static str,
}

const FLOORS: [Floor; 6] = [
    Floor {
        path: "kernel.pid_max",
        warn: 32_768,
        better: "4194304",
        then: "no process starts any more",
    },
    Floor {
        path: "kernel.threads-max",
        warn: 16_384,
        better: "1000000",
        then: "no thread starts any more",
    },
    Floor {
        path: "fs.inotify.max_user_instances",
        warn: 512,
        better: "8192",
        then: "programs that watch files fail with \"too many open files\"",
    },
    Floor {
        path: "fs.inotify.max_user_watches",
        warn: 65_536,
        better: "1048576",
        then: "programs that watch files fail with \"no space left on device\"",
    },
    Floor {
        path: "kernel.keys.root_maxkeys",
        warn: 10_000,
        better: "1000000",
        then: "containers, each of which has a keyring, do not start",
    },
    Floor {
        path: "fs.file-max",
        warn: 100_000,
        better: "9223372036854775807",
        then: "no file is opened any more",
    },
];

/// Looks at limits of the kernel and of this process, and at the clock.
pub fn findings() -> Vec<Finding> {
    let numbers = FLOORS.iter().filter_map(|floor| {
        let path = format!("/proc/sys/{}", floor.path.replace('.', "/"));
        Some(judge(floor, read(&path)?.parse().ok()?))
    });
    let mut findings: Vec<Finding> = numbers.collect();
    findings.push(files(getrlimit(Resource::Nofile).maximum));
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    findings.push(clock(since.unwrap_or_default()));
    findings
}

fn judge(floor: &Floor, value: u64) -> Finding {
    let what = format!("{} is {value}", floor.path);
    if value >= floor.warn {
        return Finding::fine(AREA, what);
    }
    let (path, better) = (floor.path, floor.better);
    let advice = format!(
        "beyond it {}: `sysctl -w {path}={better}`, and put that into /etc/sysctl.d",
        floor.then
    );
    Finding::new(Severity::Warning, AREA, what, advice)
}

/// `None` is no limit.
fn files(most: Option<u64>) -> Finding {
    match most {
        Some(most) if most < 65_536 => Finding::new(
            Severity::Note,
            AREA,
            format!("a process that is started from here may open {most} files"),
            "containers inherit it from the daemon: give that LimitNOFILE=1048576, as systemd/cortend.service does",
        ),
        _ => Finding::fine(AREA, "how many files a process may open"),
    }
}

fn clock(since: Duration) -> Finding {
    match since < BUILT {
        true => Finding::new(
            Severity::Failure,
            "clock",
            "the clock is years behind",
            "no certificate of a registry holds yet: set the clock, as by `timedatectl set-ntp true`",
        ),
        false => Finding::fine("clock", "the clock is not behind this program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged_and_the_advice_can_be_pasted() {
        let floor = &FLOORS[2];
        assert_eq!(judge(floor, 512).severity, Severity::Fine);
        let low = judge(floor, 128);
        assert_eq!(low.severity, Severity::Warning);
        let command = "`sysctl -w fs.inotify.max_user_instances=8192`";
        assert!(low.advice.contains(command), "{}", low.advice);
        assert_eq!(files(None).severity, Severity::Fine);
        assert_eq!(files(Some(1024)).severity, Severity::Note);
        assert_eq!(clock(Duration::ZERO).severity, Severity::Failure);
        assert_eq!(clock(BUILT).severity, Severity::Fine);
    }
}
