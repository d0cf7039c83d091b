//! `corten doctor` on this machine, with and without a daemon, and when something is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use tests::{Engine, Finished, Peers, binaries, command};

use super::Setup;

/// Runs `corten doctor` for the daemon of a setup.
fn doctor(setup: &Setup) -> Finished {
    let folder = setup.daemon.folder();
    let mut command = Command::new(binaries::find("corten").expect("corten is built"));
    command.arg("--address").arg(setup.daemon.address());
    command.args(["doctor", "--json", "--root"]);
    command.arg(folder.join("root"));
    command.arg("--state").arg(folder.join("state"));
    command::run(&mut command)
}

fn findings(finished: &Finished) -> Vec<Value> {
    let findings: Value = serde_json::from_str(&finished.stdout).expect("it prints JSON");
    let findings = findings.as_array().expect("a list").clone();
    let worst = findings
        .iter()
        .map(|finding| match text(finding, "severity") {
            "failure" => 4,
            "warning" => 3,
            _ => 0,
        });
    assert_eq!(finished.code, worst.max(), "{finished}");
    findings
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().expect("a text")
}

/// Returns the severity and the advice of the finding whose text has `part`.
#[track_caller]
fn find<'a>(findings: &'a [Value], part: &str) -> (&'a str, &'a str) {
    let found = findings
        .iter()
        .find(|finding| text(finding, "finding").contains(part));
    let found = found.unwrap_or_else(|| panic!("nothing about {part:?} in {findings:#?}"));
    (text(found, "severity"), text(found, "advice"))
}

#[test]
fn the_doctor_finds_what_is_wrong_and_what_is_left() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut setup = Setup::of(Engine::Corten, &peers);
    let image = setup.import();
    setup.ok(&["run", "-d", "--null-io", image, "sleeper", "sleep", "1000"]);
    let told = findings(&doctor(&setup));
    // This kernel runs containers, so it must be well.
    for feature in [
        "overlay",
        "seccomp",
        "pidfd",
        "user namespaces",
        "answers at",
        "1 tasks have a shim",
    ] {
        assert_eq!(find(&told, feature).0, "ok", "{feature}");
    }
    let remains = |told: &[Value]| {
        let left = told.iter().filter(|one| text(one, "area") == "remains");
        let left = left.filter(|one| text(one, "severity") == "warning");
        left.map(|one| text(one, "finding").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(remains(&told), Vec::<String>::new());

    let socket = setup.daemon.address();
    let mode = |mode| {
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).expect("change a mode");
    };
    mode(0o666);
    let (severity, advice) = (findings(&doctor(&setup)), "chmod 660");
    let (severity, told) = find(&severity, "everybody who can connect is root");
    assert_eq!(severity, "warning");
    assert!(told.contains(advice), "{told}");
    mode(0o660);

    // The shim lives on, and nobody knows of it any more: its bundle is out of the way.
    setup.daemon.kill();
    let namespace = &setup.daemon.namespace;
    let tasks = setup
        .daemon
        .folder()
        .join("state/io.containerd.runtime.v2.task");
    let (bundle, away) = (
        tasks.join(namespace).join("sleeper"),
        setup.daemon.folder().join("away"),
    );
    fs::rename(&bundle, &away).expect("hide the bundle");
    let told = findings(&doctor(&setup));
    let (severity, advice) = find(&told, "is the shim of sleeper");
    assert_eq!(severity, "warning");
    assert!(advice.starts_with("`kill "), "{advice}");
    assert_eq!(find(&told, "no daemon answers").0, "note");
    assert_eq!(find(&told, "did not end by itself").0, "warning");
    fs::rename(&away, &bundle).expect("put the bundle back");

    // The shim is dead: what it mounted is still there.
    let pid = find(&told, "is the shim of sleeper")
        .1
        .trim_matches(|char: char| !char.is_ascii_digit());
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill a shim of ours");
    tests::eventually("the shim is gone", super::LIMIT, || {
        let told = findings(&doctor(&setup));
        let left = remains(&told);
        let has = |end: &str| left.iter().any(|what| what.ends_with(end));
        (has("sleeper has no shim") && has("is still mounted")).then_some(())
    });
    setup.daemon.restart();
    setup.ok(&["containers", "rm", "sleeper"]);
    assert_eq!(remains(&findings(&doctor(&setup))), Vec::<String>::new());
    setup.assert_clean();
}
