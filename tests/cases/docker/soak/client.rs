//! A client of the soak: how it asks Docker, and what it makes of an answer that met a dead daemon.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tests::docker::{Dockerd, LIMIT};
use tests::{Finished, Random, command};

use super::model::{Seen, State, World};

/// How long after the daemon serves again dockerd may need to notice: its connection waits longer with each attempt.
const GRACE: Duration = Duration::from_secs(6);
/// How many of a client's last commands are told when it fails.
const TOLD: usize = 40;

/// What contradicts the model.
pub type Contradiction = String;
/// What an operation returns.
pub type Result<T = ()> = std::result::Result<T, Contradiction>;

/// When the daemon was away.
#[derive(Debug, Default)]
pub struct Outages(Mutex<Vec<(Instant, Option<Instant>)>>);

impl Outages {
    /// Notes that the daemon is about to die.
    pub fn begin(&self) {
        self.lock().push((Instant::now(), None));
    }

    /// Notes that the daemon serves again.
    pub fn end(&self) {
        if let Some((_, end)) = self.lock().last_mut() {
            *end = Some(Instant::now());
        }
    }

    /// Says whether what began at `from` and ends now may have met a dead daemon.
    pub fn met(&self, from: Instant) -> bool {
        let until = |end: Option<Instant>| end.is_none_or(|end| end + GRACE > from);
        self.lock().last().is_some_and(|&(_, end)| until(end))
    }

    /// Waits until the daemon has served for long enough that dockerd has noticed.
    fn wait(&self) {
        while self.met(Instant::now()) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, Option<Instant>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `bash` is started with to reach dockerd, whatever becomes of its fixture.
#[derive(Debug)]
pub struct Shell {
    words: Vec<OsString>,
    variables: Vec<(OsString, Option<OsString>)>,
    folder: PathBuf,
}

impl Shell {
    /// Returns a shell in dockerd's network.
    pub fn new(dockerd: &Dockerd) -> Shell {
        let command = dockerd.command("bash");
        let program = std::iter::once(command.get_program());
        Shell {
            words: program.chain(command.get_args()).map(Into::into).collect(),
            variables: command
                .get_envs()
                .map(|(name, value)| (name.into(), value.map(Into::into)))
                .collect(),
            folder: dockerd.work(),
        }
    }

    /// Runs a line.
    pub fn run(&self, line: &str) -> Finished {
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .args(["-c", line])
            .current_dir(&self.folder);
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut finished = command::run_with(&mut command, b"", LIMIT);
        line.clone_into(&mut finished.command);
        finished
    }
}

/// What a command came to.
#[derive(Debug)]
pub enum Answer {
    /// It did what it should.
    Done {
        output: String,
        /// Whether the daemon was always there.
        whole: bool,
    },
    /// It failed where the daemon was dead for a while; the daemon is there again.
    Lost,
}

/// One of those who work at the same time, each on things of its own.
#[derive(Debug)]
pub struct Client<'a> {
    pub number: usize,
    pub random: Random,
    pub world: World,
    shell: &'a Shell,
    outages: &'a Outages,
    names: usize,
    history: VecDeque<String>,
    began: Instant,
    /// How many commands succeeded, and how many were lost.
    pub counts: (usize, usize),
}

impl<'a> Client<'a> {
    /// Returns a client whose choices follow from the seed.
    pub fn new(number: usize, seed: u64, shell: &'a Shell, outages: &'a Outages) -> Client<'a> {
        Client {
            number,
            random: Random(seed.wrapping_mul(1000).wrapping_add(number as u64)),
            world: World::default(),
            shell,
            outages,
            names: 0,
            history: VecDeque::new(),
            began: Instant::now(),
            counts: (0, 0),
        }
    }

    /// Returns a name that was never used.
    pub fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}-{}", self.number, self.names)
    }

    /// Returns the last commands, for a report.
    pub fn history(&self) -> String {
        let lines: Vec<&str> = self.history.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// Runs a line that must succeed unless it meets a dead daemon.
    pub fn ask(&mut self, line: &str) -> Result<Answer> {
        self.ask_for(0, line)
    }

    /// Runs a line that must end with this exit code unless it meets a dead daemon; then it must say what is wrong.
    pub fn ask_for(&mut self, code: i32, line: &str) -> Result<Answer> {
        let from = Instant::now();
        let finished = self.shell.run(line);
        let whole = !self.outages.met(from);
        self.note(from, whole, &finished);
        if finished.code == Some(code) {
            self.counts.0 += 1;
            let output = finished.stdout;
            return Ok(Answer::Done { output, whole });
        }
        let silent = finished.stderr.trim().is_empty() && finished.stdout.trim().is_empty();
        match finished.code {
            _ if whole => Err(format!("with no death of the daemon: {finished}")),
            None => Err(format!("hangs: {finished}")),
            Some(0) => Err(format!("succeeds instead of {code}: {finished}")),
            Some(_) if silent => Err(format!("fails and does not say why: {finished}")),
            Some(_) => {
                self.counts.1 += 1;
                self.outages.wait();
                Ok(Answer::Lost)
            }
        }
    }

    /// Runs a line until it succeeds; each time that it does not must have met a dead daemon.
    pub fn insist(&mut self, line: &str) -> Result<String> {
        loop {
            if let Answer::Done { output, .. } = self.ask(line)? {
                return Ok(output);
            }
        }
    }

    /// Runs a line until it succeeds while the daemon is there, for what Docker does not tell the end of.
    pub fn undisturbed(&mut self, line: &str) -> Result<()> {
        while !matches!(self.ask(line)?, Answer::Done { whole: true, .. }) {
            self.outages.wait();
        }
        Ok(())
    }

    /// Returns the state of a container, if it is there.
    fn inspect(&mut self, name: &str) -> Result<Option<State>> {
        let format = "{{.State.Status}} {{.State.ExitCode}}";
        let line = inspect_all(&format!("name=^{name}$"), format);
        match self.insist(&line)?.trim() {
            "" => Ok(None),
            text => State::parse(text)
                .map(Some)
                .ok_or_else(|| format!("{name} is {text}")),
        }
    }

    /// Waits for a container to be in a state that `allowed` says yes to; what it is in otherwise contradicts the model.
    ///
    /// What dockerd learns from events may take a while.
    pub fn settle(
        &mut self,
        name: &str,
        allowed: impl Fn(Option<State>) -> bool,
    ) -> Result<Option<State>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.inspect(name)?;
            if allowed(state) {
                return Ok(state);
            }
            if Instant::now() > deadline && !self.outages.met(deadline) {
                let known = self.world.containers.get(name);
                return Err(format!("{name} is {state:?}, known as {known:?}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Compares what Docker says that this client has with what it should have.
    pub fn look(&mut self) -> Result {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.see()?;
            let differences = self.world.differences(&seen, false);
            if differences.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline && !self.outages.met(deadline) {
                return Err(differences.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn see(&mut self) -> Result<Seen> {
        let number = self.number;
        see(
            &format!("name=^c{number}-"),
            &format!("soak{number}/*"),
            &format!("name=^v{number}-"),
            |line| self.insist(line),
        )
    }

    fn note(&mut self, from: Instant, whole: bool, finished: &Finished) {
        if self.history.len() == TOLD {
            self.history.pop_front();
        }
        let said = format!("{} {}", finished.stdout.trim(), finished.stderr.trim());
        let said: String = said.chars().take(300).collect();
        self.history.push_back(format!(
            "{:8.3} +{:.3} {}{} -> {:?} {said}",
            (from - self.began).as_secs_f64(),
            from.elapsed().as_secs_f64(),
            if whole { "" } else { "(outage) " },
            finished.command,
            finished.code,
        ));
    }
}

/// Returns a line that tells of every container in this format.
///
/// Where the daemon died while a container was created, dockerd may list an id that it knows nothing of.
fn inspect_all(filter: &str, format: &str) -> String {
    format!(
        "ids=$(docker ps -aq --filter '{filter}') || exit; [ -z \"$ids\" ] || \
         {{ wrong=$(docker inspect -f '{format}' $ids 2>&1 >&3); }} 3>&1 || ! grep -v 'No such object: ' <<<\"$wrong\" >&2"
    )
}

/// Returns what Docker says that there is, by a function that runs a line of shell.
pub fn see(
    containers: &str,
    images: &str,
    volumes: &str,
    mut run: impl FnMut(&str) -> Result<String>,
) -> Result<Seen> {
    let mut seen = Seen::default();
    let format = "{{.Name}} {{.State.Status}} {{.State.ExitCode}}";
    let told = run(&inspect_all(containers, format))?;
    for line in told.lines().filter(|line| !line.is_empty()) {
        let (name, state) = line.split_once(' ').ok_or("a name without a state")?;
        let state = State::parse(state).ok_or_else(|| format!("{name} is {state}"))?;
        seen.containers
            .insert(name.trim_start_matches('/').to_owned(), state);
    }
    let line =
        format!("docker images --filter 'reference={images}' --format '{{{{.Repository}}}}'");
    seen.images = run(&line)?.lines().map(str::to_owned).collect();
    let line = format!("docker volume ls -q --filter '{volumes}'");
    seen.volumes = run(&line)?.lines().map(str::to_owned).collect();
    Ok(seen)
}
