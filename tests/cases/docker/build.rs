//! `docker build`: BuildKit inside dockerd, which executes `runc` itself, and the builder before it.

use tests::Dockerd;
use tests::docker::{Setup, Store};

use super::{Step, long_or_skip, play, same_on_both};

/// The files that are built from.
const FILES: &[(&str, &str)] = &[
    (
        "simple/Dockerfile",
        "FROM busybox\nRUN echo built >/built && id -u >/uid\nCMD cat /built\n",
    ),
    (
        "stages/Dockerfile",
        "FROM busybox AS first\nARG WHO=nobody\nRUN echo for $WHO >/made\nRUN --mount=type=tmpfs,target=/scratch touch /scratch/x\n\
         FROM busybox AS unused\nRUN false\n\
         FROM busybox\nWORKDIR /app\nCOPY --from=first /made .\nCOPY --chown=1000:1000 --chmod=640 data data\nENV A=b\nUSER user\n\
         LABEL made=here\nEXPOSE 80\nVOLUME /v\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"cat made; ls -l data | cut -c1-40; id -un; echo $A\"]\n",
    ),
    ("stages/data", "data\n"),
    ("stages/.dockerignore", "ignored\n"),
    ("stages/ignored", "no\n"),
    (
        "mounts/Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/cache date +%N >>/cache/runs; wc -l </cache/runs >/runs\n\
         RUN --mount=type=secret,id=key cat /run/secrets/key | tr a-z A-Z >/loud\n\
         RUN --mount=type=bind,target=/src ls /src >/seen\nRUN --network=none ls /sys/class/net >/nets\nARG AGAIN\nRUN echo $AGAIN >/again\n",
    ),
    ("mounts/key", "secret\n"),
    (
        "heredoc/Dockerfile",
        "FROM busybox\nRUN <<EOF\nset -e\nmkdir /h\necho one >/h/1\nEOF\nCOPY <<end /h/2\ntwo\nend\nRUN cat /h/1 /h/2\n",
    ),
    (
        "fails/Dockerfile",
        "FROM busybox\nRUN echo before\nRUN sh -c 'exit 7'\n",
    ),
    (
        "nobase/Dockerfile",
        "FROM 127.0.0.1:1/not/there\nRUN true\n",
    ),
    ("wrong/Dockerfile", "FROM busybox\nRUM true\n"),
    (
        "confined/Dockerfile",
        "FROM busybox\nRUN grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status >/status; sed s/lowerdir=.*// /proc/mounts | grep -v -e resolv -e hosts -e cgroup >/mounts; ulimit -n >/files\nUSER 1000\nRUN id >/tmp/id; touch /no || true\n",
    ),
    ("many/Dockerfile", "FROM busybox\n"),
];

const BUILDKIT: &str = r#"
0   docker build -q -t simple simple && docker run --rm simple && docker run --rm simple cat /uid
0   docker build -q -t simple:again simple | cut -c1-7; docker images --format '{{.Repository}}:{{.Tag}}' | sort
0   docker build -q -t stages --build-arg WHO=you stages && docker run --rm stages
0   docker inspect -f '{{json .Config.Labels}} {{json .Config.ExposedPorts}} {{json .Config.Volumes}} {{.Config.User}} {{.Config.WorkingDir}}' stages
0   docker build -q --target first -t first stages && docker run --rm first cat /made
0   docker build -q --secret id=key,src=mounts/key -t mounts mounts && docker run --rm mounts cat /runs /loud /seen /nets
0   docker build -q --secret id=key,src=mounts/key --no-cache -t mounts mounts && docker run --rm mounts cat /runs
0   docker build -q --secret id=key,src=mounts/key --build-arg AGAIN=yes -t mounts mounts && docker run --rm mounts cat /again
0   docker build -q -t heredoc heredoc && docker run --rm heredoc cat /h/1 /h/2
0   docker build -q -t confined confined && docker run --rm confined cat /status /mounts /files /tmp/id
1   docker build -t fails fails 2>&1 | grep -E '^ERROR|exit code'; exit ${PIPESTATUS[0]}
1   docker build nobase >/dev/null 2>&1
1   docker build wrong 2>&1 | grep -E 'unknown instruction'; exit ${PIPESTATUS[0]}
1   docker build not-there 2>/dev/null
0   docker build -q --output type=local,dest=out simple && cat out/built && ls out | sort | head -3
0   docker build -q --output type=tar,dest=out.tar simple && tar -xOf out.tar built
0   echo 'FROM busybox' | docker build -q -t stdin - | cut -c1-7
0   tar -C simple -c . | docker build -q -t tarred - | cut -c1-7; docker run --rm tarred
0   docker build -q --platform linux/amd64 -t platform simple | cut -c1-7; docker inspect -f '{{.Architecture}}' platform
0   docker build -q --network host -t hosted simple | cut -c1-7
0   for i in $(seq 20); do echo "RUN echo $i >/f$i" >>many/Dockerfile; done; docker build -q -t many many | cut -c1-7; docker run --rm many sh -c 'cat /f* | wc -l'
0   docker buildx ls --format '{{.Name}} {{.DriverEndpoint}} {{.Status}}' | head -1
0   docker buildx du >/dev/null && docker builder prune -af >/dev/null && docker build -q simple | cut -c1-7
0   for i in 1 2 3; do docker images -q | sort -u | xargs -r docker rmi -f >/dev/null 2>&1; done; docker images -aq
"#;

const CLASSIC: &str = r#"
0   export DOCKER_BUILDKIT=0; docker build -q -t simple simple && docker run --rm simple
0   export DOCKER_BUILDKIT=0; docker build -q -t heredoc simple | cut -c1-7; docker ps -aq
7   export DOCKER_BUILDKIT=0; docker build -t fails fails 2>&1 | grep -v -e '--->' -e Sending -e DEPRECATED -e 'buildx component'; exit ${PIPESTATUS[0]}
0   docker container prune -f | head -1
"#;

#[test]
fn buildkit_builds_on_the_graph_driver() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Overlay2).with_network(), build);
    }
}

#[test]
fn buildkit_builds_on_the_image_store() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Containerd).with_network(), build);
    }
}

fn build(dockerd: &mut Dockerd) -> Vec<Step> {
    for (path, text) in FILES {
        let path = dockerd.work().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        std::fs::write(path, text).expect("write a file");
    }
    let mut steps = play(dockerd, CLASSIC);
    steps.extend(play(dockerd, BUILDKIT));
    steps
}
