//! Docker, unchanged, tells the same on top of `cortend` as on top of upstream containerd and runc.
//!
//! A case is a script: lines of shell, each after the exit code that it must have; what they print is compared.
//! The cases that take long run where `CORTEN_TESTS_DOCKER=all` says so: `make test-docker` does.

mod badinput;
mod build;
mod checkpoint;
mod images;
mod life;
mod networks;
mod old;
mod restarts;
mod run;
mod sdk;
mod soak;
mod users;

use std::sync::OnceLock;

use regex::Regex;
use tests::docker::{Setup, Store};
use tests::image::Layer;
use tests::{DockerPeers, Dockerd, Engine, Image, Peers, binaries};

/// What one line of shell left: the line, its exit code, its output, its messages.
type Step = (String, Option<i32>, String, String);

/// Says whether the cases that take long are to run; else prints that they are skipped.
fn long_or_skip() -> bool {
    let all = std::env::var_os("CORTEN_TESTS_DOCKER").is_some_and(|value| value == "all");
    if !all {
        tests::print_skip("takes long: run by make test-docker");
    }
    all
}

/// Returns the peers and Docker, or prints what is missing.
fn peers() -> Option<(Peers, DockerPeers)> {
    Some((Peers::or_skip()?, DockerPeers::or_skip()?))
}

/// Whose daemons a case compares: upstream's, then ours; with `CORTEN_TESTS_AGAINST=upstream` upstream's twice.
fn second_engine() -> Engine {
    match std::env::var_os("CORTEN_TESTS_AGAINST") {
        Some(value) if value == "upstream" => Engine::Containerd2,
        _ => Engine::Corten,
    }
}

/// Runs a scenario on upstream's daemon and on ours and compares what it returns, step by step.
fn same_on_both(setup: &Setup, scenario: impl Fn(&mut Dockerd) -> Vec<Step>) {
    let Some((peers, docker)) = peers() else {
        return;
    };
    if binaries::find("containerd-shim-corten-v2").is_none() {
        tests::print_skip("the shim is not in the tree yet");
        return;
    }
    let run = |engine| {
        let mut dockerd = Dockerd::start(engine, &peers, &docker, setup.clone());
        load_busybox(&dockerd);
        let steps = scenario(&mut dockerd);
        (dockerd, steps)
    };
    let (upstream, theirs) = run(Engine::Containerd2);
    drop(upstream);
    let (_dockerd, ours) = run(second_engine());
    let mut differences = String::new();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        if ours != theirs {
            differences.push_str(&format!("{}\n", difference(ours, theirs)));
        }
    }
    assert_eq!(ours.len(), theirs.len(), "as many steps");
    assert!(differences.is_empty(), "\n{differences}");
}

/// Runs a script on both daemons; on upstream each line must have its exit code, on ours the same, and say the same.
fn script_on_both(setup: &Setup, script: &str) {
    same_on_both(setup, |dockerd| play(dockerd, script));
}

/// Runs a script; fails with every line that has not its exit code on upstream, for each of those is a wrong case.
#[track_caller]
fn play(dockerd: &Dockerd, script: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut wrong = String::new();
    let ours = dockerd.daemon.engine == Engine::Corten;
    for (code, alone, line) in lines(script) {
        let finished = dockerd.shell(&line.replace("NAMESPACE", &dockerd.daemon.namespace));
        if alone {
            let code = if ours { finished.code } else { Some(code) };
            steps.push((line, code, String::new(), String::new()));
            continue;
        }
        if !ours && finished.code != Some(code) {
            wrong.push_str(&format!("{code} is wrong for {finished}\n"));
        }
        steps.push((
            line,
            finished.code,
            steady(dockerd, &finished.stdout),
            steady(dockerd, &finished.stderr),
        ));
    }
    assert!(wrong.is_empty(), "wrong cases:\n{wrong}");
    steps
}

/// Returns exit codes and lines of a script, and whether a star says that upstream need not manage what ours must.
///
/// A line that begins with no number goes on with the one before it.
fn lines(script: &str) -> Vec<(i32, bool, String)> {
    let mut lines: Vec<(i32, bool, String)> = Vec::new();
    for line in script.lines().filter(|line| !line.is_empty()) {
        let (head, rest) = line.split_at_checked(4).unwrap_or((line, ""));
        let (code, alone) = match head.trim().strip_suffix('*') {
            Some(code) => (code, true),
            None => (head.trim(), false),
        };
        match (code.parse(), lines.last_mut()) {
            (Ok(code), _) => lines.push((code, alone, rest.to_owned())),
            (Err(_), Some((_, _, before))) => before.push_str(&format!("\n{}", line.trim())),
            (Err(_), None) => panic!("a script begins with an exit code: {line}"),
        }
    }
    lines
}

fn difference(ours: &Step, theirs: &Step) -> String {
    let (line, code, out, err) = ours;
    format!(
        "$ {line}\n  ours {code:?}, theirs {:?}\n--- our output\n{out}--- their output\n{}--- our messages\n{err}--- their messages\n{}",
        theirs.1, theirs.2, theirs.3
    )
}

/// Returns the text without what differs from run to run: folders, identities, times, sizes of what is random.
fn steady(dockerd: &Dockerd, text: &str) -> String {
    static RULES: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let rule = |pattern, with| (Regex::new(pattern).expect("a pattern"), with);
        vec![
            rule(r"\b[0-9a-f]{64}\b", "ID64"),
            rule(r"\b(?:[0-9]+[a-f]|[a-f]+[0-9])[0-9a-f]{10,11}\b", "ID12"),
            rule(r"\b[0-9a-f]{12}\b", "ID12"),
            rule(
                r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d{4} [A-Z]+|Z|[+-]\d\d:\d\d)?",
                "TIME",
            ),
            rule(
                r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d\b",
                "TIME",
            ),
            rule(
                r"(About an? |\d+ |Less than a )(second|minute|hour|day|month|year)s?( ago)?",
                "WHILE",
            ),
            // Docker 20.10 may say it of a container that did not start.
            rule(
                "(?m)^time=\"[^\"]*\" level=error msg=\"error waiting for container: .*\n",
                "",
            ),
            rule(r"\bextract-\d+-[\w-]{4} ", "extract-KEY "),
            rule(r"\bcontainerd-mount\d+", "containerd-mountN"),
        ]
    });
    let mut text = text
        .replace(&dockerd.daemon.folder().display().to_string(), "FOLDER")
        .replace(&dockerd.daemon.namespace, "NAMESPACE");
    for (pattern, with) in rules {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    text
}

/// Loads the image `busybox` with every applet that Debian's has.
fn load_busybox(dockerd: &Dockerd) {
    static ARCHIVE: OnceLock<Image> = OnceLock::new();
    let image = ARCHIVE.get_or_init(busybox);
    let archive = image.write_docker_archive(&dockerd.work(), "busybox:latest");
    dockerd.ok(&format!("docker load -i {}", archive.display()));
    std::fs::remove_file(archive).expect("remove the archive");
}

/// Returns busybox with all its applets and the users of [`Image::busybox`].
fn busybox() -> Image {
    let list = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output();
    let list = String::from_utf8(list.expect("run busybox").stdout).expect("names");
    let mut links = Layer::new();
    for applet in list.lines().filter(|name| *name != "busybox") {
        links.symlink(&format!("bin/{applet}"), "busybox");
    }
    Image::busybox_recipe().layer(links.finish()).build()
}
