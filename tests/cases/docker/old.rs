//! Bookworm's Docker 20.10, and the change from it to the newest while containers run.

use serde_json::json;
use tests::Dockerd;

use super::{Setup, Step, Store, images, life, long_or_skip, play, run, same_on_both};

/// What Docker 20.10 does in another way than its successors, on any daemon.
const OTHERWISE: &[(&str, &str)] = &[
    (
        "126 docker run --rm busybox /etc\n",
        "125 docker run --rm busybox /etc\n",
    ),
    ("127 docker exec", "126 docker exec"),
    (
        "1   docker exec -u no-such-user",
        "126 docker exec -u no-such-user",
    ),
    // It asks for every capability that there is, not for those that there are here.
    (
        "0   docker exec --privileged box grep CapEff /proc/self/status\n",
        "",
    ),
];

/// Containers that are there when dockerd is another one from one moment to the next.
const BEFORE: &str = r#"
0   docker run -d --name counts busybox sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done' | wc -c
0   docker run -d --name ends -v $PWD/go:/go busybox sh -c 'until test -e /go/end; do sleep 0.1; done; echo last words; exit 7' | wc -c
0   docker run -dit --name talks -v vol:/v --memory 64m busybox sh | wc -c
0   docker run -d --name always --restart always busybox sleep 1000 | wc -c
0   docker run -d --name paused busybox sleep 1000 | wc -c; docker pause paused
0   docker commit counts made:1 | cut -c1-7
0   docker inspect -f '{{.State.Pid}}' counts talks always >pids; eventually shows 5 docker logs counts
0   docker version --format '{{.Server.Version}}' | cut -c1-5
"#;

const AFTER: &str = r#"
0   docker version --format '{{.Server.Version}}' | cut -c1-5
0   docker ps -a --format '{{.Names}} {{.State}}' | sort
0   docker inspect -f '{{.State.Pid}}' counts talks always | cmp - pids && echo same
0   n=$(docker logs counts | wc -l); more() { [ $(docker logs counts | wc -l) -gt $((n + 5)) ]; }; eventually more && docker logs counts | awk '$1 != NR { print "line", NR, "says", $1; exit 1 }' && echo whole
0   docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' ends; docker logs ends
0   docker exec counts echo from exec; docker exec talks cat /sys/fs/cgroup/memory/memory.limit_in_bytes; docker exec -i talks wc -c <pids >/dev/null && echo spoken
0   docker unpause paused && docker exec paused echo awake
0   docker update --memory 48m --memory-swap 96m talks; docker exec talks cat /sys/fs/cgroup/memory/memory.limit_in_bytes
0   docker start ends >/dev/null; docker wait ends; docker stop -t 0 always; docker start always; docker kill counts; docker wait counts
0   docker run --rm made:1 echo of an old image; docker volume ls
0   docker rm -f counts ends talks always paused | sort; docker ps -aq
"#;

#[test]
fn bookworms_docker_works_as_it_does_on_containerd() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Overlay2).old(), |dockerd| {
            let scripts = [
                run::SHORT,
                run::IDENTITY,
                life::EXEC,
                life::FILES,
                images::LOCAL,
            ];
            let mut script = scripts.concat();
            for (newest, old) in OTHERWISE {
                assert!(script.contains(newest), "no script has {newest}");
                script = script.replace(newest, old);
            }
            play(dockerd, &script)
        });
    }
}

#[test]
fn containers_live_on_while_docker_is_upgraded() {
    if long_or_skip() {
        let setup = Setup::new(Store::Overlay2).with("live-restore", json!(true));
        same_on_both(&setup.old(), upgrade);
    }
}

fn upgrade(dockerd: &mut Dockerd) -> Vec<Step> {
    let mut steps = play(dockerd, BEFORE);
    assert_eq!(dockerd.terminate(), Some(0), "dockerd ends");
    dockerd.ok("touch go/end; sleep 1");
    dockerd.upgrade();
    dockerd.restart();
    steps.extend(play(dockerd, AFTER));
    steps
}
