//! `docker checkpoint`: containers are written to disk by CRIU and go on from there.

use serde_json::json;
use tests::Criu;

use super::{Setup, Store, long_or_skip, script_on_both};

/// What counts in its memory alone: after a restore the next number follows, in the log too.
///
/// Docker 28 cannot restore what has a network of its own: it asks for the namespace before there is a process. And it
/// refuses to as long as the daemon below still has the same checkpoint's bytes from before.
const CHECKPOINTS: &str = r#"
0   cat >count <<'END'
    trap 'echo told; exit 4' TERM
    i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done
    END
    docker run -d --name counts --network host busybox sh -c "$(cat count)" | wc -c
0   said() { [ $(docker logs counts | wc -l) -gt $1 ]; }; eventually said 20; docker checkpoint create --leave-running counts first; state counts
0   docker checkpoint ls counts
1   docker checkpoint create counts first
0   said() { [ $(docker logs counts | wc -l) -gt $1 ]; }; n=$(docker logs counts | wc -l); eventually said $((n + 10)); docker checkpoint create counts second
0   eventually is exited counts; docker inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Pid}} {{.State.OOMKilled}} {{.State.Error}}' counts
0   docker checkpoint ls counts | sort
1   docker exec counts true
1   docker checkpoint create counts third
0   docker logs counts | wc -l >before; eventually docker start --checkpoint second counts; state counts
0   said() { [ $(docker logs counts | wc -l) -gt $1 ]; }; eventually said $(($(cat before) + 10)); docker logs counts | awk '$1 != NR { print "line", NR, "says", $1; exit 1 }' && echo whole
0   docker exec counts sh -c 'head -n 1 /proc/1/cmdline | tr "\0" " "; echo from exec'
0   docker pause counts && docker unpause counts && docker top counts >/dev/null && echo told
0   docker stop -t 20 counts; docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' counts; docker logs counts | tail -1
0   eventually docker start --checkpoint first counts; docker kill counts; docker wait counts
1   docker start --checkpoint none counts
0   docker checkpoint rm counts first; docker checkpoint ls counts
1   docker checkpoint rm counts first
1   docker start --checkpoint first counts
0   docker start counts; docker checkpoint create --checkpoint-dir $PWD/kept counts there; ls kept; docker checkpoint ls --checkpoint-dir $PWD/kept counts
0   eventually is exited counts; docker rm counts; docker ps -aq
1   docker checkpoint create nobody first
1   docker checkpoint ls nobody
"#;

/// What a container is has to be there again: its limits, which runc forgets, its mounts and what it may do.
///
/// Of another user's processes CRIU reads the limits only where it has CAP_SYS_RESOURCE.
const KEPT: &str = r#"
0   docker run -d --name kept --network host --memory 64m --cap-drop ALL --read-only --tmpfs /t:mode=1777 -v vol:/v busybox sh -c 'i=0; echo x >/t/file; while :; do i=$((i + 1)); echo $i >/t/new; mv /t/new /t/count; sleep 0.05; done'
0   far() { [ $(docker exec kept cat /t/count) -gt $1 ]; }; eventually far 20; docker checkpoint create kept one; eventually is exited kept
0   eventually docker start --checkpoint one kept; far() { [ $(docker exec kept cat /t/count) -gt $1 ]; }; eventually far 30
0   docker exec kept sh -c 'cat /t/file; id -u; grep -E "^(Cap|Seccomp:|NoNewPrivs)" /proc/1/status'
0*  [ $(docker exec kept cat /sys/fs/cgroup/memory/memory.limit_in_bytes) = 67108864 ]
0   docker exec kept sh -c 'touch /x; echo y >/v/y'; docker stats --no-stream --format '{{.Name}}' kept
0   docker restart -t 0 kept; far() { [ $(docker exec kept cat /t/count) -gt $1 ]; }; eventually far 5
0   docker rm -f kept; docker volume rm vol; docker ps -aq
"#;

#[test]
fn containers_go_on_from_checkpoints() {
    if long_or_skip() && Criu::or_skip().is_some() {
        let setup = Setup::new(Store::Overlay2).with("experimental", json!(true));
        script_on_both(&setup, CHECKPOINTS);
    }
}

#[test]
fn containers_go_on_from_checkpoints_on_the_image_store() {
    if long_or_skip() && Criu::or_skip().is_some() {
        let setup = Setup::new(Store::Containerd).with("experimental", json!(true));
        script_on_both(&setup, KEPT);
    }
}
