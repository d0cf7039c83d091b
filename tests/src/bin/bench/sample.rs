//! Times of programs and medians of them, with the contenders' samples interleaved.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Something that is measured again and again.
pub type Contender<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Takes `count` samples of every contender, one of each in turn and each round beginning with another; returns their medians.
pub fn medians(count: usize, contenders: &mut [Contender<'_>]) -> Vec<f64> {
    let mut samples = vec![Vec::with_capacity(count); contenders.len()];
    let all = contenders.len();
    // The first of each warms caches and is not counted.
    for contender in contenders.iter_mut() {
        contender();
    }
    for round in 0..count {
        for turn in 0..all {
            let which = (round + turn) % all;
            samples[which].push(contenders[which]());
        }
    }
    samples.into_iter().map(median).collect()
}

/// Returns the middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// Returns the value below which this part of all are, or the nearest above.
pub fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * part).ceil() as usize;
    values.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// Runs a program that must succeed and returns how many milliseconds it took.
pub fn milliseconds(command: &mut Command) -> f64 {
    seconds(command) * 1e3
}

/// Runs a program that must succeed and returns how many seconds it took.
///
/// The end is waited for, not looked for at intervals, so the time is as exact as the kernel's wake-up.
pub fn seconds(command: &mut Command) -> f64 {
    let mut complaints = tempfile::tempfile().expect("make a temporary file");
    let duplicate = |file: &File| Stdio::from(file.try_clone().expect("duplicate a descriptor"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(duplicate(&complaints))
        .process_group(0);
    let start = Instant::now();
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let pid = Pid::from_child(&child);
    let ended = wait(pid, Duration::from_secs(300));
    let taken = start.elapsed();
    if !ended {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().expect("wait for a child of ours");
    if !status.success() {
        let mut text = String::new();
        let _ = complaints
            .rewind()
            .and_then(|()| complaints.read_to_string(&mut text));
        panic!("{command:?} ended with {status}: {text}");
    }
    taken.as_secs_f64()
}

fn wait(pid: Pid, limit: Duration) -> bool {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("open a child of ours");
    let limit = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}
