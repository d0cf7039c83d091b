//! Each failpoint of the sources: the program that has it is killed there, fails there, and waits there.

use std::time::Duration;

use tests::footprint::Loss;
use tests::{Engine, Peers};

use super::Fixture;
use super::client::{Client, until};
use crate::tidy::sources;

/// How long a daemon that was to be killed while it starts may live on.
const DEATH: Duration = Duration::from_secs(5);
/// What a daemon comes by when it starts.
const RELOAD: &str = "tasks.reload.";
/// What cannot be removed here is removed at the next start.
const REMOVAL: &str = "tasks.bundle.";

/// What became of a point that was armed.
enum Struck {
    /// Nobody came by.
    No,
    /// What it asked for was done; this is wrong now.
    Yes(Vec<(Loss, String)>),
}

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
    assert!(!names.is_empty(), "{component} has no failpoints");
    names.retain(|name| name.contains(&wanted));
    names
}

/// Strikes each point: once, or, by `make torture`, each time that one comes by while a client does all its steps.
///
/// Fails unless each was come by, and nothing was lost or leaked.
fn strike_each(points: &[String], strike: impl Fn(&mut Fixture, &str, usize) -> Struck) {
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
            match strike(&mut fixture, point, time) {
                Struck::Yes(losses) => {
                    let losses = losses.into_iter();
                    wrong.extend(
                        losses.map(|(loss, what)| format!("{point}, {time}: {loss:?}: {what}")),
                    );
                }
                Struck::No if time == 1 => wrong.push(format!("{point}: nobody comes by")),
                Struck::No => break,
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    fixture.finish();
}

impl Fixture {
    /// Returns whether a point was come by, after a client has settled what that has led to.
    fn struck(&mut self, point: &str, client: &mut Client) -> Struck {
        let losses = self.settle(std::slice::from_mut(client));
        match self.daemon.disarm(point) {
            true => {
                assert!(losses.is_empty(), "without any failure: {losses:?}");
                Struck::No
            }
            false => Struck::Yes(losses),
        }
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
    strike_each(&points("daemon/"), |fixture, point, time| {
        fixture.daemon.arm(point, &format!("{time} kill"));
        let mut client = fixture.client(0);
        if point.starts_with(RELOAD) {
            fixture.daemon.kill();
            fixture.daemon.launch();
            let ended = || fixture.daemon.has_ended().then_some(());
            if until(DEATH, ended).is_none() {
                fixture.daemon.kill();
            }
            fixture.revive();
        } else {
            fixture.outlive(&mut client);
            client.check();
        }
        fixture.struck(point, &mut client)
    });
}

#[test]
fn failing_at_any_failpoint_the_daemon_loses_and_leaks_nothing() {
    let mut points = points("daemon/");
    // Who fails there takes the shim for gone, as it should.
    points.retain(|point| !point.starts_with(RELOAD));
    strike_each(&points, |fixture, point, time| {
        fixture.daemon.arm(point, &format!("{time} error"));
        let mut client = fixture.client(0);
        assert!(!fixture.outlive(&mut client), "the daemon died");
        client.check();
        if point.starts_with(REMOVAL) {
            fixture.daemon.kill();
            fixture.revive();
        }
        fixture.struck(point, &mut client)
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
    strike_each(&points("shim/"), |fixture, point, time| {
        fixture.daemon.arm(point, &format!("{time} kill"));
        let mut client = fixture.client(0);
        client.loses_shims = true;
        assert!(!fixture.outlive(&mut client), "the daemon died");
        fixture.struck(point, &mut client)
    });
}
