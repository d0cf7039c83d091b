//! Each failpoint of the sources: the program that has it is killed there, fails there, and waits there.

use std::time::Duration;

use tests::{Engine, Peers};

use super::Fixture;
use super::client::{Client, until};
use crate::tidy::sources;

/// How long a daemon may live on that is to be killed at a point.
const DEATH: Duration = Duration::from_secs(5);
/// How long after its client's last step a program may still come by a point.
const LATE: Duration = Duration::from_secs(2);
/// What a point does that ends the program.
const KILL: &str = "kill";
/// What a daemon comes by when it starts.
const RELOAD: &str = "tasks.reload.";
/// What cannot be removed here is removed at the next start.
const REMOVAL: &str = "tasks.bundle.";

/// Returns the names of the failpoints in the sources of `component`.
///
/// `CORTEN_TORTURE_POINT` leaves those whose name has it.
fn points(component: &str) -> Vec<String> {
    let wanted = std::env::var("CORTEN_TORTURE_POINT").unwrap_or_default();
    let mut names = Vec::new();
    for (path, text) in sources() {
        if path.starts_with(component) {
            let marks = text.split("failpoint!(\"").skip(1);
            names.extend(marks.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    // No client comes by these: `takeover.rs` strikes them.
    names.retain(|name| !name.starts_with("takeover."));
    assert!(!names.is_empty(), "{component} has no failpoints");
    names.retain(|name| name.contains(&wanted));
    names
}

/// Has each point do `action`: once, or, by `make torture`, each time that one comes by while a client does all its steps.
///
/// `work` has the client do them, and starts the daemon again if it dies. Fails unless each point was come by, and nothing
/// was lost or leaked.
fn strike_each(points: &[String], action: &str, work: impl Fn(&mut Fixture, &str, &mut Client)) {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let times = match super::is_long() {
        true => usize::MAX,
        false => 1,
    };
    let mut fixture = Fixture::new(Engine::Corten, &peers, "io.containerd.corten.v2");
    let mut wrong = Vec::new();
    for point in points {
        for time in 1..=times {
            fixture.daemon.arm(point, &format!("{time} {action}"));
            let mut client = fixture.client(0);
            work(&mut fixture, point, &mut client);
            let struck = fixture.comes_by(point);
            fixture.daemon.disarm(point);
            client.check();
            for (loss, what) in fixture.settle(&mut [client]) {
                wrong.push(format!("{point}, {time}: {loss:?}: {what}"));
            }
            if !struck {
                if time == 1 {
                    wrong.push(format!("{point}: nobody comes by"));
                }
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    fixture.finish();
}

impl Fixture {
    /// Returns whether anybody has come by a point, or soon does: some things the daemon and its shims do in their own time.
    fn comes_by(&self, point: &str) -> bool {
        until(LATE, || (!self.daemon.is_armed(point)).then_some(())).is_some()
    }

    /// Returns whether the daemon ends.
    fn await_death(&mut self) -> bool {
        until(DEATH, || self.daemon.has_ended().then_some(())).is_some()
    }
}

#[test]
fn no_two_failpoints_have_the_same_name() {
    let mut names = [points("daemon/"), points("shim/")].concat();
    names.sort();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None);
}

#[test]
fn killed_at_any_failpoint_the_daemon_loses_and_leaks_nothing() {
    strike_each(&points("daemon/"), KILL, |fixture, point, client| {
        if !point.starts_with(RELOAD) {
            if !fixture.outlive(client) && fixture.comes_by(point) && fixture.await_death() {
                fixture.revive();
            }
            return;
        }
        fixture.daemon.kill();
        fixture.daemon.launch();
        if !fixture.await_death() {
            fixture.daemon.kill();
        }
        fixture.revive();
    });
}

#[test]
fn failing_at_any_failpoint_the_daemon_loses_and_leaks_nothing() {
    let mut points = points("daemon/");
    // Who fails there takes the shim for gone, as it should.
    points.retain(|point| !point.starts_with(RELOAD));
    strike_each(&points, "error", |fixture, point, client| {
        assert!(!fixture.outlive(client), "the daemon died");
        if point.starts_with(REMOVAL) {
            fixture.daemon.kill();
            fixture.revive();
        }
    });
}

#[test]
fn waiting_at_every_failpoint_the_daemon_and_its_shims_do_all_that_they_should() {
    let Some(peers) = Peers::or_skip() else {
        return;
    };
    let mut fixture = Fixture::new(Engine::Corten, &peers, "io.containerd.corten.v2");
    let points = [points("daemon/"), points("shim/")].concat();
    for point in &points {
        fixture.daemon.arm(point, "delay");
    }
    fixture.daemon.kill();
    fixture.revive();
    let mut client = fixture.client(0);
    fixture.outlive(&mut client);
    assert_eq!(client.failed, None);
    client.check();
    let losses = fixture.settle(&mut [client]);
    assert!(losses.is_empty(), "{losses:?}");
    let passed_by = points.iter().filter(|point| fixture.daemon.disarm(point));
    assert_eq!(passed_by.collect::<Vec<_>>(), Vec::<&String>::new());
    fixture.finish();
}

#[test]
fn a_shim_that_is_killed_at_any_failpoint_leaves_nothing() {
    strike_each(&points("shim/"), KILL, |fixture, _, client| {
        client.loses_shims = true;
        assert!(!fixture.outlive(client), "the daemon died");
    });
}
