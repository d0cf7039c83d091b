//! What people do with containers that are there: exec, attach, logs, copy, commit, watch, stop.

use std::time::Duration;

use tests::{Dockerd, Terminal};

use super::{Setup, Step, Store, long_or_skip, same_on_both, script_on_both, steady};

/// Processes beside the first, and what the first and they say.
pub(super) const EXEC: &str = r#"
0   docker run -d --name box --network none -h boat -e A=b -w /tmp busybox sh -c 'echo begun; trap "echo ended; exit 4" TERM; while :; do sleep 0.1; done'
0   eventually shows begun docker logs box; docker exec box sh -c 'echo $A; pwd; id -u; hostname'
0   docker exec -u user -w /etc -e C=d -e A=other box sh -c 'echo $A $C; pwd; id'
0   docker exec -u 1234:55 box id
1   docker exec -u no-such-user box id
0   docker exec -t box sh -c 'tty; stty size; test -t 2 && echo terminal'
0   seq 20000 | docker exec -i box wc -l
0   docker exec box cat </dev/null
0   docker exec --privileged box grep CapEff /proc/self/status
0   docker exec box grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status
0   docker exec -d box sh -c 'echo detached >/tmp/detached'; eventually docker exec box test -s /tmp/detached; docker exec box cat /tmp/detached
5   docker exec box sh -c 'echo out; echo err >&2; exit 5'
137 docker exec box sh -c 'kill -9 $$'
127 docker exec box /bin/not-there
126 docker exec box /etc/passwd
126 docker exec box /etc
127 docker exec -w /not/there box true
1   docker exec nobody true
0   docker top box -o user,args | sed 's/ .*sh -c/ sh -c/' | head -2
0   docker stats --no-stream --format '{{.Name}} {{.PIDs}}' box
0   docker stats --no-stream --format '{{.MemUsage}}' box | grep -c iB
0   docker pause box && state box && docker ps --format '{{.Names}} {{.State}}'
1   docker exec box true
1   docker pause box
0   docker unpause box && state box
1   docker unpause box
0   docker rename box crate && docker inspect -f '{{.Name}}' crate
0   docker inspect -f '{{json .Config.Env}} {{json .HostConfig.Runtime}} {{.State.Running}} {{.Driver}} {{.Platform}}' crate
1   docker rm crate
0   docker stop -t 20 crate && docker wait crate && docker logs crate
1   docker exec crate true
1   docker kill crate
0   docker start crate && docker stop -t 20 crate && docker logs crate | sort | uniq -c
0   docker restart -t 20 crate && docker inspect -f '{{.RestartCount}} {{.State.Status}}' crate
0   docker kill -s TERM crate && docker wait crate
0   docker logs --tail 1 crate; docker logs --since 1h crate | wc -l; docker logs -t crate | cut -c1-2 | uniq
0   docker rm crate
"#;

/// How containers end.
const ENDS: &str = r#"
0   docker run -d --name deaf --stop-timeout 1 busybox sh -c 'trap "" TERM; echo deaf; while :; do sleep 0.1; done'; eventually shows deaf docker logs deaf; docker stop deaf; docker wait deaf; docker rm deaf
0   docker run -d --name usr1 --stop-signal USR1 busybox sh -c 'trap "echo got it; exit 7" USR1; echo ready; while :; do sleep 0.1; done'; eventually shows ready docker logs usr1; docker stop usr1; docker wait usr1; docker logs usr1; docker rm usr1
0   for s in HUP INT TERM 9 15 KILL; do docker run -d --name sig --init busybox sh -c 'echo x; exec sleep 100' >/dev/null; eventually shows x docker logs sig; docker kill -s $s sig; docker wait sig; docker rm sig; done
1   docker run -d --name alive busybox sleep 100; docker kill -s NOSUCH alive
0   docker rm -f alive; docker ps -aq
0   docker run -d --name quick busybox true; docker wait quick; state quick; docker start -a quick; docker rm quick
42  docker run --rm busybox sh -c 'exit 42'
255 docker run --rm busybox sh -c 'exit 255'
0   docker create --name made busybox sh -c 'cat; exit 3'; state made; docker start made; docker wait made; docker rm made
6   docker create -i --name asked busybox sh -c 'cat; exit 6'; echo typed | docker start -ai asked
0   docker rm asked
0   docker run -d --name again --restart on-failure:2 busybox sh -c 'echo once; exit 1'; eventually is exited again; eventually shows 2 docker inspect -f '{{.RestartCount}}' again; eventually is exited again; docker logs again; docker rm again
0   docker run -d --name always --restart always busybox sh -c 'echo once; sleep 0.2'; lines() { [ $(docker logs always | wc -l) -ge 3 ]; }; eventually lines; docker stop always; sleep 1; state always; docker rm always
0   docker run -d --name un --restart unless-stopped busybox sh -c 'sleep 1000'; docker exec un sh -c 'kill -TERM 1'; docker kill un; sleep 0.5; state un; docker rm -f un
0   docker run -d --rm --name gone busybox sh -c 'sleep 0.3'; docker wait gone; there() { ! docker inspect gone; }; eventually there
0   docker run -d --name well --health-cmd 'test -e /ok' --health-interval 200ms --health-retries 2 busybox sleep 1000; health() { [ $(docker inspect -f '{{.State.Health.Status}}' well) = $1 ]; }; eventually health unhealthy && echo ill; docker exec well touch /ok; eventually health healthy && echo well; docker rm -f well
1   docker run -d --name used -v vol:/v busybox sleep 100; docker rm used
0   docker rm -fv used; docker container prune -f; docker volume ls -q
0   docker run -d --name silent --log-driver none busybox echo unheard; docker wait silent; docker logs silent 2>&1 | tail -1; docker rm silent
0   docker run -d --name local --log-driver local busybox sh -c 'echo a; echo b >&2'; docker wait local; docker logs local; docker rm local
0   docker run --name rolled --log-opt max-size=1k --log-opt max-file=2 busybox seq 200 | wc -l; docker logs rolled | tail -1; docker rm rolled
0   docker run --name loud busybox sh -c 'seq 100000' | tail -1; docker logs loud | wc -l; docker rm loud
0   docker run --rm busybox sh -c 'head -c 3000000 /dev/zero' | wc -c
0   docker run -d --name follow busybox sh -c 'for i in 1 2 3; do echo $i; sleep 0.3; done'; docker logs -f follow; docker rm follow
"#;

/// Files of containers, and images made of them.
pub(super) const FILES: &str = r#"
0   docker run -d --name box busybox sh -c 'echo made >/made; rm /etc/group; echo more >>/etc/passwd; mkdir /dir; sleep 1000'; eventually docker exec box test -d /dir; docker diff box | sort
0   docker cp box:/made made && cat made
0   mkdir -p tree/sub; echo deep >tree/sub/file; ln -s sub/file tree/link; docker cp tree box:/dir/; docker exec box sh -c 'cat /dir/tree/link; readlink /dir/tree/link'
0   docker cp box:/dir - | tar -t | sort
0   tar -C tree -c . | docker cp - box:/tmp && docker exec box cat /tmp/sub/file
1   docker cp box:/not-there x
0   docker cp -a made box:/dir/renamed; docker exec box cat /dir/renamed
0   docker commit -m said -a me -c 'ENV X=y' -c 'CMD ["sh", "-c", "cat /made; echo $X"]' box made:1 | cut -c1-7
0   docker run --rm made:1
0   docker history --format '{{.Comment}}' made:1 | head -1; docker inspect -f '{{.Comment}} {{.Author}} {{json .Config.Cmd}}' made:1
0   docker export box | tar -t | grep -E '^(made|dir/|etc/)' | sort
0   docker export box | docker import -m imported -c 'CMD cat /made' - flat:1 | cut -c1-7; docker run --rm flat:1
0   docker stop -t 0 box; docker cp box:/made again && cat again; docker start box; docker exec box cat /dir/renamed
0   docker rm -f box; docker images --format '{{.Repository}}:{{.Tag}}' | sort
0   docker rmi made:1 flat:1 | grep -c Untagged
0   docker run --name both busybox true; docker diff both; docker rm both
"#;

/// What is told while things happen.
const EVENTS: &str = r#"
0   from=$(date +%s); docker run -d --name seen --network none --health-cmd true --health-interval 1h busybox sleep 1000 >/dev/null
    docker exec seen true; docker pause seen; docker unpause seen; docker rename seen saw; docker update --cpu-shares 99 saw
    docker kill -s STOP saw; docker kill saw; docker wait saw; docker rm saw
    sleep 1; docker events --since $from --until $(date +%s) --format '{{.Type}} {{.Action}} {{index .Actor.Attributes "exitCode"}} {{index .Actor.Attributes "signal"}}' | grep -v -e network -e image
0   from=$(date +%s); docker run --rm --memory 16m --memory-swap 16m busybox tail /dev/zero; sleep 1
    docker events --since $from --until $(date +%s) --filter type=container --format '{{.Action}} {{index .Actor.Attributes "exitCode"}}' | sort
0   docker info --format '{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}} {{.DefaultRuntime}} {{.LiveRestoreEnabled}} {{json .Warnings}}'
0   docker system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'
0   docker version --format '{{range .Server.Components}}{{.Name}} {{end}}'
"#;

#[test]
fn processes_are_added_and_heard() {
    script_on_both(&Setup::new(Store::Overlay2), EXEC);
}

#[test]
fn processes_are_added_and_heard_on_the_image_store() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Containerd), EXEC);
    }
}

#[test]
fn containers_end_as_they_should() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), ENDS);
    }
}

#[test]
fn files_of_containers_come_and_go() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), FILES);
    }
}

#[test]
fn files_of_containers_come_and_go_on_the_image_store() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Containerd), FILES);
    }
}

#[test]
fn what_happens_is_told() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), EVENTS);
    }
}

#[test]
fn a_terminal_attaches_resizes_and_detaches() {
    same_on_both(&Setup::new(Store::Overlay2), at_a_terminal);
}

/// Starts a docker command on a terminal of this size.
fn at(dockerd: &Dockerd, line: &str) -> Terminal {
    let mut command = dockerd.shell_command(line);
    command.env("TERM", "xterm");
    Terminal::start(&command, 90, 30)
}

fn at_a_terminal(dockerd: &mut Dockerd) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut note = |what: &str, code, text: &str| {
        steps.push((what.to_owned(), code, text.to_owned(), String::new()));
    };

    let mut terminal = at(
        dockerd,
        "docker run -it --name term --detach-keys ctrl-a,d busybox sh",
    );
    terminal.expect("/ # ");
    terminal.send("tty; echo mark-$((1+1))\n");
    terminal.expect("mark-2");
    note(
        "tty",
        None,
        if terminal.seen().contains("/dev/pts/0") {
            "pts 0"
        } else {
            "no"
        },
    );
    follows_the_window(&mut terminal);
    // The detach keys leave the container running.
    terminal.send("\x01d");
    note("detached", terminal.wait(), &dockerd.ok("state term"));

    let mut terminal = at(dockerd, "docker attach term");
    terminal.send("\n");
    terminal.expect("/ # ");
    terminal.send("echo back-$((2+2))\n");
    terminal.expect("back-4");
    terminal.send("\x10\x11");
    note("detached again", terminal.wait(), &dockerd.ok("state term"));

    let mut terminal = at(dockerd, "docker exec -it term sh");
    terminal.expect("/ # ");
    follows_the_window(&mut terminal);
    terminal.send("exit 9\n");
    note("exec ended", terminal.wait(), "");

    let mut terminal = at(dockerd, "docker attach term");
    terminal.send("exit 5\n");
    note("ended", terminal.wait(), &dockerd.ok("docker wait term"));
    note(
        "logs",
        None,
        &steady(
            dockerd,
            &dockerd.ok("docker logs term | grep -c mark-2; docker rm term"),
        ),
    );

    // Interrupted at the keyboard: the signal reaches the process through its own terminal.
    let mut terminal = at(dockerd, "docker run --rm -it busybox sleep 1000");
    tests::eventually("the container runs", Duration::from_secs(20), || {
        (!dockerd.ok("docker ps -q").is_empty()).then_some(())
    });
    terminal.send("\x03");
    note("interrupted", terminal.wait(), "");
    steps
}

fn follows_the_window(terminal: &mut Terminal) {
    // The new size travels by signal, client, two daemons and shim: ask until it is there. The client misses the signal
    // while it is still setting its terminal up, and is told of a change only.
    tests::eventually("the new size arrives", Duration::from_secs(20), || {
        terminal.resize(120, 41);
        terminal.resize(121, 41);
        terminal.send("stty size\n");
        std::thread::sleep(Duration::from_millis(200));
        terminal.seen().contains("41 121").then_some(())
    });
}
