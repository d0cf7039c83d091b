//! `live-restore`: dockerd, the daemon below it, or both are killed while containers run.

use serde_json::json;
use tests::Dockerd;
use tests::docker::{Setup, Store};

use super::{Step, long_or_skip, play, same_on_both};

/// Containers that count, that end while nobody looks, and that are to be started again.
const BEFORE: &str = r#"
0   docker run -d --name counts busybox sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done'
0   docker run -d --name ends -v $PWD/go:/go busybox sh -c 'until test -e /go/end; do sleep 0.1; done; echo last words; exit 7'
0   docker run -d --name again --restart on-failure -v $PWD/go:/go busybox sh -c 'echo begun; until test -e /go/again; do sleep 0.1; done; rm /go/again; exit 3'
0   docker run -dit --name talks busybox sh
0   docker inspect -f '{{.State.Pid}}' counts talks >pids; eventually shows 5 docker logs counts
"#;

/// What must be so after each of the deaths.
const AFTER: &str = r#"
0   eventually is exited ends; docker inspect -f '{{.State.ExitCode}} {{.State.Running}}' ends | grep -x '7 false' && docker logs ends
0   touch seen; n=$(cat seen); restarted() { [ $(docker logs again | grep -c begun) -gt ${n:-1} ] && is running again; }; eventually restarted && docker logs again | grep -c begun | tee seen
0   docker inspect -f '{{.State.Pid}}' counts talks | cmp - pids && state counts && state talks
0   n=$(docker logs counts | wc -l); more() { [ $(docker logs counts | wc -l) -gt $((n + 5)) ]; }; eventually more && docker logs counts | awk '$1 != NR { print "line", NR, "says", $1; exit 1 }' && echo whole
0   docker exec counts echo from exec; docker exec -i talks sh -c 'wc -c' <pids >/dev/null && echo spoken
0   docker pause counts && docker unpause counts && docker stats --no-stream --format '{{.Name}}' counts
0   rm -f go/end; docker rm ends; docker run -d --name ends -v $PWD/go:/go busybox sh -c 'until test -e /go/end; do sleep 0.1; done; echo last words; exit 7' | wc -c
0   docker ps -a --format '{{.Names}} {{.State}}' | sort
"#;

/// The end of those containers.
const END: &str = r#"
0   docker kill counts && docker wait counts && docker rm counts
0   docker rm -f ends again talks; docker ps -aq
0   docker run --rm busybox echo new
"#;

/// Lets the container end that waits for it, and the one that is to be started again.
const GO: &str = "touch go/end go/again; sleep 1";

fn deaths(dockerd: &mut Dockerd) -> Vec<Step> {
    let mut steps = play(dockerd, BEFORE);

    dockerd.kill();
    dockerd.ok(GO);
    dockerd.restart();
    steps.extend(play(dockerd, AFTER));

    dockerd.terminate();
    dockerd.ok(GO);
    dockerd.restart();
    steps.extend(play(dockerd, AFTER));

    // Upstream may lose the end, its code and the new start of a container that ended while containerd was away.
    let alone = AFTER
        .replace(
            "0   eventually is exited ends",
            "0*  eventually is exited ends",
        )
        .replace("0   touch seen", "0*  touch seen")
        .replace(
            "0   rm -f go/end; docker rm ends",
            "0*  rm -f go/end; docker rm -f ends",
        )
        .replace("0   docker ps -a", "0*  docker ps -a");
    dockerd.daemon.kill();
    dockerd.ok(GO);
    dockerd.daemon.restart();
    steps.extend(play(dockerd, &alone));

    dockerd.kill();
    dockerd.daemon.kill();
    dockerd.ok(GO);
    dockerd.daemon.restart();
    dockerd.restart();
    steps.extend(play(dockerd, &alone));

    steps.extend(play(dockerd, END));
    steps
}

#[test]
fn containers_live_through_every_death_on_the_graph_driver() {
    if long_or_skip() {
        let setup = Setup::new(Store::Overlay2).with("live-restore", json!(true));
        same_on_both(&setup, deaths);
    }
}

#[test]
fn containers_live_through_every_death_on_the_image_store() {
    if long_or_skip() {
        let setup = Setup::new(Store::Containerd).with("live-restore", json!(true));
        same_on_both(&setup, deaths);
    }
}

/// Without live-restore dockerd takes its containers with it and starts those again that say so.
#[test]
fn dockerd_ends_its_containers_when_it_is_told_to() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Overlay2), |dockerd| {
            let mut steps = play(
                dockerd,
                "0   docker run -d --name stays --restart always busybox sleep 1000; docker run -d --name ends busybox sh -c 'trap \"exit 4\" TERM; echo x; while :; do sleep 0.1; done'; eventually shows x docker logs ends\n",
            );
            dockerd.terminate();
            dockerd.restart();
            steps.extend(play(
                dockerd,
                "0   eventually is running stays; docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' stays ends\n0   docker rm -f stays ends\n",
            ));
            steps
        });
    }
}
