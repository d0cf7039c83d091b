//! The client of the tests of crashes: what it does, step by step, and what must be true of that after a crash.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api_protos::containerd::events::TaskExit;
use api_protos::containerd::services::events::v1::SubscribeRequest;
use api_protos::containerd::services::tasks::v1::StartRequest;
use rustix::process::{Pid, Signal, kill_process};
use tests::command::parent;
use tests::footprint::Loss;
use tests::{Api, Ctr, Daemon, Finished};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// How long what follows from a call may take.
const SOON: Duration = Duration::from_secs(10);
/// Ends with 7 when another process has made `/go`.
const WAITS: &str = "while [ ! -e /go ]; do sleep 0.05; done; exit 7";

/// What the client does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Pulls an image, which is unpacked.
    Pull,
    /// Creates and starts a container of the image.
    Run,
    /// Has another process in the container let the first one end.
    Exec,
    /// Waits for the end.
    Wait,
    /// Deletes the task, which tells the exit code.
    Delete,
    /// Removes the container and its snapshot.
    Remove,
    /// Runs a second container.
    RunSecond,
    /// Kills the shim of the second container and waits until the task is gone.
    Lose,
    /// Removes the second container.
    RemoveSecond,
    /// Removes the image and collects what it left.
    Forget,
}

impl Step {
    const ALL: [Step; 10] = [
        Step::Pull,
        Step::Run,
        Step::Exec,
        Step::Wait,
        Step::Delete,
        Step::Remove,
        Step::RunSecond,
        Step::Lose,
        Step::RemoveSecond,
        Step::Forget,
    ];
}

/// One time through all steps, with containers of its own.
#[derive(Debug)]
pub struct Client {
    ctr: Ctr,
    shim: String,
    image: String,
    /// The containers' names.
    pub first: String,
    pub second: String,
    /// Whether shims die at other times than this client says.
    pub loses_shims: bool,
    /// The last step that was acknowledged.
    done: Option<Step>,
    /// The step that failed, and why.
    pub failed: Option<(Step, String)>,
    /// What is wrong.
    pub losses: Vec<(Loss, String)>,
}

impl Client {
    /// Returns a client that has done nothing yet.
    pub fn new(daemon: &Daemon, shim: &str, image: &str, number: usize) -> Client {
        Client {
            ctr: daemon.ctr(),
            shim: shim.to_owned(),
            image: image.to_owned(),
            first: format!("c{number}"),
            second: format!("d{number}"),
            loses_shims: false,
            done: None,
            failed: None,
            losses: Vec::new(),
        }
    }

    /// Takes one step after the other until one fails.
    pub fn work(&mut self) {
        for step in Step::ALL {
            if let Err(why) = self.take(step) {
                self.failed = Some((step, why));
                return;
            }
            self.done = Some(step);
        }
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let (first, second) = (self.first.clone(), self.second.clone());
        match step {
            Step::Pull => self.call(&["images", "pull", "--plain-http", &self.image]),
            Step::Run => self.run(&first),
            Step::Exec => self.release(&first, "go"),
            Step::Wait => self.wait_until_it_stops(&first),
            Step::Delete => self.delete(&first, 7),
            Step::Remove => self.call(&["containers", "rm", &first]),
            Step::RunSecond => self.run(&second),
            Step::Lose => self.lose(&second),
            Step::RemoveSecond => self.call(&["containers", "rm", &second]),
            Step::Forget => self.call(&["images", "rm", "--sync", &self.image]),
        }
    }

    /// Notes what the daemon does not know though it was acknowledged, and knows though it was removed.
    pub fn check(&mut self) {
        // What a shim took along is no longer there, and rightly so.
        if self.loses_shims {
            return;
        }
        let has = |command: [&str; 3], name: &str| {
            let listed = self.ctr.run_with(&command, b"", CALL);
            listed.stdout.lines().any(|line| line == name)
        };
        let tasks = ["tasks", "ls", "-q"];
        let containers = ["containers", "ls", "-q"];
        let images = ["images", "ls", "-q"];
        // A record, since which step it must be there, during which it may go, and since which it must be gone.
        let records = [
            (images, &self.image, Step::Pull, Step::Forget),
            (containers, &self.first, Step::Run, Step::Remove),
            (tasks, &self.first, Step::Run, Step::Delete),
            (
                containers,
                &self.second,
                Step::RunSecond,
                Step::RemoveSecond,
            ),
        ];
        let mut wrong = Vec::new();
        for (command, name, made, removed) in records {
            let there = has(command, name);
            let next = Step::ALL.iter().find(|step| Some(**step) > self.done);
            if self.done >= Some(made) && next.is_some_and(|next| *next < removed) && !there {
                wrong.push(format!("{command:?} has lost {name} after {:?}", self.done));
            }
            if self.done >= Some(removed) && there {
                wrong.push(format!(
                    "{command:?} has {name} again after {:?}",
                    self.done
                ));
            }
        }
        let wrong = wrong.into_iter().map(|what| (Loss::Record, what));
        self.losses.extend(wrong);
    }

    /// Brings to an end what the crash has left of each container, and removes the image.
    pub fn settle(&mut self, daemon: &Daemon, exits: &Exits) {
        if self.done.is_none() {
            // What has come of an image is kept for another try, which uses it up.
            let pulled = self.take(Step::Pull);
            self.note(Loss::Call, pulled);
        }
        for id in [self.first.clone(), self.second.clone()] {
            let settled = self.settle_task(daemon, &id, exits);
            self.note(Loss::Call, settled);
            self.discard(&["containers", "rm", &id]);
            self.discard(&["snapshots", "rm", &id]);
        }
        // Time would end these.
        for lease in self.output(&["leases", "ls"]).lines() {
            if let Some(id) = lease.split_whitespace().next()
                && lease.contains("containerd.io/gc.expire")
            {
                self.discard(&["leases", "rm", id]);
            }
        }
        self.discard(&["images", "rm", "--sync", &self.image]);
        self.await_exits(exits);
    }

    fn settle_task(&mut self, daemon: &Daemon, id: &str, exits: &Exits) -> Result<(), String> {
        let Some((_, state)) = self.task(id) else {
            return Ok(());
        };
        if state == "CREATED" {
            // The command of that name would make another task.
            let request = StartRequest {
                container_id: id.to_owned(),
                ..StartRequest::default()
            };
            let api = Api::new(daemon, &daemon.namespace);
            let started = api.run(async { api.tasks().start(request).await });
            started.map_err(|status| format!("start {id}: {status}"))?;
        }
        if self.task(id).is_none_or(|(_, state)| state != "STOPPED") {
            self.release(id, "again")?;
            self.wait_until_it_stops(id)?;
        }
        self.delete(id, 7)?;
        // A container that ran has ended for those who listen too.
        let told = until(SOON, || (!exits.of(id).is_empty()).then_some(()));
        if told.is_none() {
            let what = format!("nobody was told of the end of {id}");
            self.losses.push((Loss::Exit, what));
        }
        Ok(())
    }

    /// Notes the ends that nobody was told of, or not as they were.
    fn await_exits(&mut self, exits: &Exits) {
        // With its shim a container is killed, and nobody may know of that; how it ended before that is known.
        let lost = [7, 137, 255];
        let seen = self.done >= Some(Step::Wait) || !self.loses_shims;
        let first = if seen { &lost[..1] } else { &lost };
        let expected = [
            (self.first.clone(), Step::Wait, first),
            (self.second.clone(), Step::Lose, &lost),
        ];
        for (id, ended, codes) in expected {
            if self.done >= Some(ended) {
                let told = until(SOON, || (!exits.of(&id).is_empty()).then_some(()));
                let what = format!("nobody was told of the end of {id}");
                self.note(Loss::Exit, told.ok_or(what));
            }
            for code in exits.of(&id) {
                if !codes.contains(&code) {
                    let what = format!("{id} is said to have ended with {code}");
                    self.losses.push((Loss::Code, what));
                }
            }
        }
    }

    fn note(&mut self, loss: Loss, result: Result<(), String>) {
        if let Err(what) = result {
            self.losses.push((loss, what));
        }
    }

    fn run(&self, id: &str) -> Result<(), String> {
        let (shim, image) = (&self.shim, &self.image);
        let script = ["/bin/sh", "-c", WAITS];
        let run = ["run", "-d", "--runtime", shim, image, id];
        self.call(&[&run[..], &script].concat())
    }

    /// Lets the first process of a container end, by a further process with this id.
    fn release(&self, id: &str, exec: &str) -> Result<(), String> {
        self.call(&["tasks", "exec", "--exec-id", exec, id, "touch", "/go"])
    }

    fn wait_until_it_stops(&self, id: &str) -> Result<(), String> {
        let stopped = || {
            let state = self.task(id).map(|(_, state)| state);
            (state.as_deref() == Some("STOPPED")).then_some(())
        };
        until(SOON, stopped).ok_or(format!("{id} does not stop"))
    }

    fn delete(&mut self, id: &str, code: u32) -> Result<(), String> {
        let deleted = self.ctr.run_with(&["tasks", "delete", id], b"", CALL);
        // The client ends with the task's exit code and says so.
        if deleted.stderr.contains(&format!("exit code {code}")) {
            return Ok(());
        }
        if deleted.stderr.contains("exit code ") {
            self.losses.push((Loss::Code, deleted.to_string()));
            return Ok(());
        }
        Err(deleted.to_string())
    }

    fn lose(&self, id: &str) -> Result<(), String> {
        let (pid, _) = self.task(id).ok_or(format!("{id} has no task"))?;
        let shim = Pid::from_raw(parent(pid)).ok_or(format!("{id} has no shim"))?;
        kill_process(shim, Signal::KILL).map_err(|error| format!("kill {shim:?}: {error}"))?;
        let listed = || {
            let listed = self.ctr.run_with(&["tasks", "ls", "-q"], b"", CALL);
            (listed.code == Some(0)).then_some(listed.stdout)
        };
        let gone = || listed().filter(|ids| ids.lines().all(|task| task != id));
        until(SOON, gone)
            .map(drop)
            .ok_or(format!("{id} is not gone"))
    }

    /// Returns the pid of a container's first process and its state.
    fn task(&self, id: &str) -> Option<(i32, String)> {
        let table = self.output(&["tasks", "ls"]);
        let mut rows = table.lines().map(|line| line.split_whitespace());
        let mut row = rows.find(|row| row.clone().next() == Some(id))?.skip(1);
        Some((row.next()?.parse().ok()?, row.next()?.to_owned()))
    }

    fn output(&self, args: &[&str]) -> String {
        self.ctr.run_with(args, b"", CALL).stdout
    }

    fn call(&self, args: &[&str]) -> Result<(), String> {
        let finished: Finished = self.ctr.run_with(args, b"", CALL);
        match finished.code {
            Some(0) => Ok(()),
            _ => Err(finished.to_string()),
        }
    }

    /// Removes something that may not be there; what is left shows in the footprint.
    fn discard(&self, args: &[&str]) {
        let _ = self.ctr.run_with(args, b"", CALL);
    }
}

/// Returns what `attempt` gives as soon as it gives something within `limit`.
pub fn until<T>(limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let got = attempt();
        if got.is_some() || Instant::now() > deadline {
            return got;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The ends of containers that a subscriber was told of, over all lives of a daemon.
#[derive(Debug, Clone, Default)]
pub struct Exits(Arc<Mutex<Vec<(String, u32)>>>);

impl Exits {
    /// Subscribes for as long as the daemon lives.
    pub fn listen(&self, daemon: &Daemon) {
        let api = Api::new(daemon, &daemon.namespace);
        let exits = self.clone();
        let request = SubscribeRequest {
            filters: vec!["topic==\"/tasks/exit\"".into()],
        };
        std::thread::spawn(move || {
            api.serve(async {
                // Upstream answers with the first event.
                let Ok(answer) = api.events().subscribe(request).await else {
                    return;
                };
                let mut events = answer.into_inner();
                while let Ok(Some(envelope)) = events.message().await {
                    let event = envelope.event.unwrap_or_default();
                    let exit = api_protos::any::unpack::<TaskExit>(&event);
                    if let Some(Ok(exit)) = exit
                        && exit.id == exit.container_id
                    {
                        exits.add(exit.container_id, exit.exit_status);
                    }
                }
            });
        });
    }

    /// Returns the exit codes that a container's end was told with.
    pub fn of(&self, id: &str) -> Vec<u32> {
        let exits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = exits.iter().filter(|(container, _)| container == id);
        own.map(|(_, code)| *code).collect()
    }

    fn add(&self, id: String, code: u32) {
        let mut exits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        exits.push((id, code));
    }
}
