//! What the clients of the soak do, and what each of it makes of the model, done or lost.

use super::client::{Answer, Client, Result};
use super::model::{Container, Policy, Program, State};

/// The most containers, images and volumes of a client.
const MOST: [usize; 3] = [5, 3, 3];

impl Client<'_> {
    /// Does one thing.
    pub fn step(&mut self) -> Result {
        match self.random.below(30) {
            0..=4 if self.world.containers.len() < MOST[0] => self.run_detached(),
            5 => self.run_attached(),
            6 if self.world.containers.len() < MOST[0] => self.create(),
            7 | 8 => self.on(|known| !known.may_run(), Self::start),
            9 | 10 => self.on(Container::runs, Self::stop),
            11 => self.on(Container::may_run, Self::kill),
            12 => self.on(Container::runs, Self::restart),
            13 => self.on(Container::runs, Self::pause),
            14 => self.on(|known| known.state == State::Paused, Self::unpause),
            15..=17 => self.on(Container::runs, Self::exec),
            18 => self.on(
                |known| !known.may_run(),
                |client, name| client.remove(name, "docker rm"),
            ),
            19 => self.on(|_| true, |client, name| client.remove(name, "docker rm -f")),
            20 => self.on(
                |known| matches!(known.program, Program::Ends(_)) && known.may_run(),
                Self::wait,
            ),
            21 => self.on(|_| true, Self::logs),
            22 => self.on(Container::runs, Self::copy),
            23 if self.world.images.len() < MOST[1] => self.on(|_| true, Self::commit),
            24 if self.world.images.len() < MOST[1] => self.build(),
            25 => self.on_image(Self::use_image),
            26 => self.on_image(Self::remove_image),
            27 => self.on_image(Self::ship),
            28 => self.volume(),
            29 => match self.random.below(4) {
                0 => self.prune(),
                1 => self.on(
                    |known| known.runs() && known.policy == Policy::Always,
                    Self::let_die,
                ),
                2 => self.on(Container::runs, Self::watch),
                _ => self.look(),
            },
            _ => self.on(|_| true, |client, name| client.remove(name, "docker rm -f")),
        }
    }

    /// Does something to one of the containers of which this holds, if there is one.
    fn on(
        &mut self,
        holds: impl Fn(&Container) -> bool,
        operation: impl Fn(&mut Self, &str) -> Result,
    ) -> Result {
        let names = self.world.containers(holds);
        if names.is_empty() {
            return Ok(());
        }
        let name = self.random.one_of(&names);
        operation(self, &name)
    }

    fn on_image(&mut self, operation: impl Fn(&mut Self, &str) -> Result) -> Result {
        let names: Vec<String> = self.world.images.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let name = self.random.one_of(&names);
        operation(self, &name)
    }

    fn known(&mut self, name: &str) -> &mut Container {
        let known = self.world.containers.get_mut(name);
        known.expect("operations are chosen for containers that are there")
    }

    fn volume_or_none(&mut self) -> Option<String> {
        let mut volumes: Vec<Option<String>> = vec![None, None];
        volumes.extend(self.world.volumes.keys().cloned().map(Some));
        self.random.one_of(&volumes)
    }

    /// Returns a new container's description and its words on the command line.
    fn describe(&mut self) -> (Container, String) {
        let code = 1 + self.random.below(9) as i32;
        let program = self.random.one_of(&[
            Program::Sleeps,
            Program::Obeys(code),
            Program::Ends(code),
            Program::Ends(0),
        ]);
        // One that ends by itself and is always started again never comes to rest.
        let policy = match program {
            Program::Ends(_) => self.random.one_of(&[Policy::No, Policy::OnFailure]),
            _ => self.random.one_of(&[Policy::No, Policy::Always]),
        };
        let volume = self.volume_or_none();
        let mount = volume
            .as_ref()
            .map(|volume| format!("-v {volume}:/v "))
            .unwrap_or_default();
        let words = format!(
            "--label soak=c{} --network none --restart {} {mount}busybox sh -c \"{}\"",
            self.number,
            policy.text(),
            program.script()
        );
        let container = Container {
            program,
            policy,
            volume,
            state: State::Created,
            starts: Some(0),
        };
        (container, words)
    }

    fn create(&mut self) -> Result {
        let name = self.name("c");
        let (container, words) = self.describe();
        if matches!(
            self.ask(&format!("docker create --name {name} {words}"))?,
            Answer::Lost
        ) {
            let found = self.settle(&name, |seen| matches!(seen, None | Some(State::Created)))?;
            if found.is_none() {
                return Ok(());
            }
        }
        self.world.containers.insert(name, container);
        Ok(())
    }

    fn run_detached(&mut self) -> Result {
        let name = self.name("c");
        let (mut container, words) = self.describe();
        match self.ask(&format!("docker run -d --name {name} {words}"))? {
            Answer::Done { .. } => {
                container.state = State::Running;
                container.starts = Some(1);
                self.world.containers.insert(name, container);
                Ok(())
            }
            Answer::Lost => {
                if self.settle(&name, |_| true)?.is_none() {
                    return Ok(());
                }
                self.world.containers.insert(name.clone(), container);
                self.finish_start(&name)
            }
        }
    }

    fn start(&mut self, name: &str) -> Result {
        let answer = self.ask(&format!("docker start {name}"))?;
        let known = self.known(name);
        match answer {
            Answer::Done { .. } => {
                known.state = State::Running;
                known.starts = known.starts.map(|starts| starts + 1);
                Ok(())
            }
            Answer::Lost => self.finish_start(name),
        }
    }

    /// Brings a container to run whose start was lost: it has started, or not, and can be started then.
    fn finish_start(&mut self, name: &str) -> Result {
        let before = self.known(name).clone();
        self.known(name).starts = None;
        let started = Container {
            state: State::Running,
            ..before.clone()
        };
        // Docker notes why a start failed as an exit code of its own.
        let allowed = |seen| match seen {
            None => false,
            Some(State::Exited(125..=128 | 255)) => true,
            Some(seen) => seen == before.state || started.may_be(seen),
        };
        self.settle(name, allowed)?;
        self.known(name).state = State::Running;
        self.start_again(name)
    }

    /// Starts a container whose start was lost.
    ///
    /// Docker 28.5 disposes of what was half started, and takes its end for that of what it starts then (moby#46212): it
    /// believes that the container has ended, or starts it again and again. Such a container can only be removed.
    fn start_again(&mut self, name: &str) -> Result {
        self.insist(&format!("docker start {name}"))?;
        let count = format!(
            "id=$(docker inspect -f '{{{{.Id}}}}' {name}) || exit; grep -c \"already exists with the same ID.* container=$id\" ../dockerd.log || true"
        );
        if self.insist(&count)?.trim() != "0" {
            self.put_away(name)?;
            self.world.containers.remove(name);
        }
        Ok(())
    }

    fn run_attached(&mut self) -> Result {
        let name = self.name("c");
        let code = self.random.below(9) as i32;
        let line = format!(
            "docker run --rm --name {name} --network none busybox sh -c 'echo said; exit {code}'"
        );
        match self.ask_for(code, &line)? {
            Answer::Done {
                output,
                whole: true,
            } if output != "said\n" => Err(format!("{name} says {output:?}")),
            Answer::Done { whole: true, .. } => {
                self.settle(&name, |seen| seen.is_none()).map(|_| ())
            }
            _ => self.put_away(&name),
        }
    }

    /// Removes what `docker run --rm` left: it goes by itself, unless dockerd could not reach the daemon at that moment.
    fn put_away(&mut self, name: &str) -> Result {
        // Dockerd may be about to do the same, or to start it.
        self.insist(&format!(
            "for i in $(seq 10); do docker rm -f {name} 2>&1 && exit; sleep 1; done; exit 1"
        ))?;
        self.settle(name, |seen| seen.is_none()).map(|_| ())
    }

    /// Waits until the program is ready to be told to end.
    fn wait_until_ready(&mut self, name: &str) -> Result {
        for _ in 0..100 {
            if self
                .insist(&format!("docker logs {name}"))?
                .contains("begun")
            {
                return Ok(());
            }
        }
        Err(format!("{name} does not begin"))
    }

    fn stop(&mut self, name: &str) -> Result {
        let obeys = matches!(self.known(name).program, Program::Obeys(_));
        if obeys {
            self.wait_until_ready(name)?;
        }
        let time = if obeys { 30 } else { 0 };
        self.end(name, &format!("docker stop -t {time} {name}"), obeys)
    }

    fn kill(&mut self, name: &str) -> Result {
        if matches!(self.known(name).program, Program::Ends(_)) {
            return self.wait(name);
        }
        self.end(name, &format!("docker kill {name}"), false)
    }

    /// Ends a container by a command, again as long as that is lost.
    fn end(&mut self, name: &str, line: &str, in_time: bool) -> Result {
        let mut in_time = in_time;
        loop {
            let answer = self.ask(line)?;
            let known = self.known(name).clone();
            let lost = matches!(answer, Answer::Lost);
            in_time &= matches!(answer, Answer::Done { whole: true, .. });
            let found = self.settle(name, |seen| {
                seen.is_some_and(|seen| {
                    known.is_stopped_as(seen, in_time) || (lost && seen == known.state)
                })
            })?;
            if let Some(state @ State::Exited(_)) = found {
                self.known(name).state = state;
                return Ok(());
            }
        }
    }

    fn restart(&mut self, name: &str) -> Result {
        match self.ask(&format!("docker restart -t 0 {name}"))? {
            Answer::Done { .. } => {
                let known = self.known(name);
                known.starts = known.starts.map(|starts| starts + 1);
                Ok(())
            }
            Answer::Lost => {
                let known = self.known(name).clone();
                self.settle(name, |seen| {
                    seen.is_some_and(|seen| {
                        known.is_stopped_as(seen, false)
                            || matches!(seen, State::Running | State::Exited(125..=128))
                    })
                })?;
                self.finish_restart(name)
            }
        }
    }

    fn finish_restart(&mut self, name: &str) -> Result {
        let known = self.known(name);
        known.starts = None;
        self.start_again(name)
    }

    fn pause(&mut self, name: &str) -> Result {
        self.change(name, "docker pause", State::Paused)
    }

    fn unpause(&mut self, name: &str) -> Result {
        self.change(name, "docker unpause", State::Running)
    }

    /// Brings a container from one state to another by a command that is done or not.
    fn change(&mut self, name: &str, command: &str, to: State) -> Result {
        let before = self.known(name).state;
        let lost = matches!(self.ask(&format!("{command} {name}"))?, Answer::Lost);
        let found = self.settle(name, |seen| {
            seen == Some(to) || (lost && seen == Some(before))
        })?;
        if let Some(state) = found {
            self.known(name).state = state;
        }
        // What Docker says is what the processes do: only one that is not paused can run another.
        if self.known(name).state == State::Running {
            self.insist(&format!("docker exec {name} true"))?;
        }
        Ok(())
    }

    fn exec(&mut self, name: &str) -> Result {
        let code = self.random.below(9) as i32;
        let line = format!("docker exec {name} sh -c 'echo said; exit {code}'");
        match self.ask_for(code, &line)? {
            Answer::Done {
                output,
                whole: true,
            } if output != "said\n" => Err(format!("{name} says {output:?}")),
            _ => Ok(()),
        }
    }

    fn remove(&mut self, name: &str, command: &str) -> Result {
        self.insist(&format!(
            "{command} {name} 2>&1 || ! docker inspect {name} >/dev/null 2>&1"
        ))?;
        self.settle(name, |seen| seen.is_none())?;
        self.world.containers.remove(name);
        Ok(())
    }

    /// Waits for one that ends by itself: its exit code is known whatever happened in the meantime.
    fn wait(&mut self, name: &str) -> Result {
        let Program::Ends(code) = self.known(name).program else {
            return Ok(());
        };
        let said = self.insist(&format!("docker wait {name}"))?;
        if said.trim() != code.to_string() {
            return Err(format!("{name} ends with {said} instead of {code}"));
        }
        self.settle(name, |seen| seen == Some(State::Exited(code)))?;
        let known = self.known(name);
        known.state = State::Exited(code);
        if known.policy == Policy::OnFailure {
            known.starts = None;
        }
        Ok(())
    }

    /// Reads what a container has said: each start is heard once, and each end.
    fn logs(&mut self, name: &str) -> Result {
        let said = self.insist(&format!("docker logs {name}"))?;
        let known = self.known(name);
        let (Some(starts), State::Exited(_)) = (known.starts, known.state) else {
            return Ok(());
        };
        let once = match known.program {
            Program::Ends(_) => "begun\nended\n",
            _ => return Ok(()),
        };
        if said != once.repeat(starts) {
            return Err(format!(
                "{name} was heard to say {said:?} in {starts} starts"
            ));
        }
        Ok(())
    }

    fn copy(&mut self, name: &str) -> Result {
        let text = self.name("t");
        self.insist(&format!(
            "echo {text} >{text} && docker cp -q {text} {name}:/copied"
        ))?;
        let back = self.insist(&format!("docker exec {name} cat /copied"))?;
        if back.trim() != text {
            return Err(format!("{name} has {back:?} instead of {text}"));
        }
        Ok(())
    }

    /// Lets a container end from within, which its policy starts again.
    fn let_die(&mut self, name: &str) -> Result {
        let Program::Obeys(code) = self.known(name).program else {
            return Ok(());
        };
        self.wait_until_ready(name)?;
        let count = format!("docker inspect -f '{{{{.RestartCount}}}}' {name}");
        let before = self.insist(&count)?;
        // The process that tells may be gone with the rest before it says how it went. Docker counts before it starts.
        let line = format!(
            "docker exec {name} kill 1; for i in $(seq 200); do case $(docker inspect -f '{{{{.RestartCount}}}} {{{{.State.Status}}}}' {name}) in {}' '*) ;; *' running') exit 0 ;; esac; sleep 0.1; done; echo not started again; exit 1",
            before.trim()
        );
        let lost = !matches!(self.ask(&line)?, Answer::Done { whole: true, .. });
        let found = self.settle(name, |seen| {
            seen == Some(State::Running) || (lost && seen == Some(State::Exited(code)))
        })?;
        let known = self.known(name);
        known.starts = None;
        // Docker starts it once; where that met a dead daemon, it is left to its owner.
        if let Some(State::Exited(_)) = found {
            self.finish_restart(name)?;
        }
        Ok(())
    }

    /// Asks for what Docker tells of a container that runs.
    fn watch(&mut self, name: &str) -> Result {
        let line = self.random.one_of(&[
            "docker top",
            "docker stats --no-stream",
            "docker diff",
            "docker inspect",
            "docker port",
            "docker update --cpu-shares 512",
        ]);
        self.ask(&format!("{line} {name}")).map(|_| ())
    }

    fn prune(&mut self) -> Result {
        let ending =
            |known: &Container| matches!(known.program, Program::Ends(_)) && known.may_run();
        if !self.world.containers(ending).is_empty() {
            return Ok(());
        }
        // Dockerd prunes for one client at a time, and nothing where it finds what it has half removed.
        let line = format!(
            "flock prune docker container prune -f --filter label=soak=c{}",
            self.number
        );
        if matches!(self.ask(&line)?, Answer::Lost) {
            for name in self.world.containers(|known| !known.may_run()) {
                self.remove(&name, "docker rm -f")?;
            }
        }
        self.world.containers.retain(|_, known| known.may_run());
        self.look()
    }

    fn commit(&mut self, name: &str) -> Result {
        let image = self.name("soak").replace('-', "/");
        let ends = matches!(self.known(name).program, Program::Ends(_));
        // A container that ends meanwhile cannot be paused for it.
        let pause = if ends { "--pause=false " } else { "" };
        let line = format!("docker commit {pause}-c 'LABEL made=here' {name} {image}");
        let lost = matches!(self.ask(&line)?, Answer::Lost);
        if lost {
            // It was paused for the commit; where the daemon died then, dockerd leaves it so.
            let known = self.known(name).clone();
            let found = self.settle(name, |seen| {
                seen.is_some_and(|seen| {
                    known.may_be(seen) || (known.runs() && seen == State::Paused)
                })
            })?;
            if known.runs() && matches!(found, Some(State::Paused)) {
                self.known(name).state = State::Paused;
            }
        }
        if !lost || self.has_image(&image)? {
            self.world.images.insert(image, String::new());
        }
        Ok(())
    }

    fn has_image(&mut self, image: &str) -> Result<bool> {
        let line = format!("docker images -q {image}");
        Ok(!self.insist(&line)?.trim().is_empty())
    }

    fn build(&mut self) -> Result {
        let image = self.name("soak").replace('-', "/");
        let line = format!(
            "printf 'FROM busybox\\nRUN mkdir /made.d\\nRUN echo {image} >/made\\n' | docker build -q -t {image} -"
        );
        if !matches!(self.ask(&line)?, Answer::Lost) || self.has_image(&image)? {
            self.world.images.insert(image.clone(), image);
        }
        Ok(())
    }

    /// Runs an image; what is in it must be whole.
    fn use_image(&mut self, image: &str) -> Result {
        let text = self.world.images[image].clone();
        let name = self.name("c");
        let line = format!(
            "docker run --rm --name {name} --network none --entrypoint cat {image} {}",
            if text.is_empty() {
                "/etc/passwd"
            } else {
                "/made"
            }
        );
        match self.ask(&line)? {
            Answer::Done {
                output,
                whole: true,
            } if !text.is_empty() && output.trim() != text => {
                Err(format!("{image} has {output:?}"))
            }
            Answer::Done { whole: true, .. } => Ok(()),
            _ => self.put_away(&name),
        }
    }

    fn remove_image(&mut self, image: &str) -> Result {
        self.insist(&format!("docker rmi -f {image} 2>&1"))?;
        if self.has_image(image)? {
            return Err(format!("{image} is still there"));
        }
        self.world.images.remove(image);
        Ok(())
    }

    /// Sends an image through an archive, or through the registry, and back.
    fn ship(&mut self, image: &str) -> Result {
        let remote = format!("127.0.0.1:5000/{image}");
        if self.random.below(2) == 0 {
            let file = image.replace('/', "-");
            // An archive that breaks off is a success to Docker's command line.
            self.undisturbed(&format!("docker save {image} -o {file}.tar"))?;
            self.remove_image_for_now(image)?;
            self.insist(&format!("docker load -qi {file}.tar && rm {file}.tar"))?;
        } else {
            self.insist(&format!(
                "docker tag {image} {remote} && docker push -q {remote}"
            ))?;
            self.remove_image_for_now(image)?;
            self.remove_image_for_now(&remote)?;
            self.insist(&format!(
                "docker pull -q {remote} && docker tag {remote} {image}"
            ))?;
            self.remove_image_for_now(&remote)?;
        }
        self.use_image(image)
    }

    fn remove_image_for_now(&mut self, image: &str) -> Result {
        self.insist(&format!("docker rmi -f {image}")).map(|_| ())
    }

    fn volume(&mut self) -> Result {
        let names: Vec<String> = self.world.volumes.keys().cloned().collect();
        if names.is_empty() || (names.len() < MOST[2] && self.random.below(3) == 0) {
            let name = self.name("v");
            self.insist(&format!("docker volume create {name}"))?;
            self.world.volumes.insert(name, None);
            return Ok(());
        }
        let name = self.random.one_of(&names);
        if self.random.below(4) == 0 && !self.world.is_mounted(&name) {
            self.insist(&format!("docker volume rm -f {name}"))?;
            self.world.volumes.remove(&name);
            return Ok(());
        }
        let user = self.name("c");
        let text = self.name("t");
        let line = format!(
            "docker run --rm --name {user} --network none -v {name}:/v busybox sh -c 'cat /v/text; echo {text} >/v/text'"
        );
        let before = self.world.volumes[&name].clone();
        // The first time there is nothing to read, which cat says.
        let answer = self.ask(&line)?;
        if !matches!(answer, Answer::Done { whole: true, .. }) {
            self.put_away(&user)?;
        }
        match answer {
            Answer::Done { output, whole } => {
                if whole && output.trim() != before.unwrap_or_default() {
                    return Err(format!("{name} has {output:?}"));
                }
                self.world.volumes.insert(name, Some(text));
            }
            Answer::Lost => {
                let line = format!(
                    "cat $(docker volume inspect -f '{{{{.Mountpoint}}}}' {name})/text || true"
                );
                let now = self.insist(&line)?.trim().to_owned();
                if now != text && now != before.clone().unwrap_or_default() {
                    return Err(format!("{name} has {now:?} after {before:?} and {text}"));
                }
                self.world
                    .volumes
                    .insert(name, Some(now).filter(|now| !now.is_empty()));
            }
        }
        Ok(())
    }
}
