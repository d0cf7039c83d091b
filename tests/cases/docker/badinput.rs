//! What goes wrong beside Docker: runtimes that are none, a disk that is full, a registry that lies. Each is said
//! clearly, and nothing that was there is lost.

use serde_json::json;
use tests::{Dockerd, Peers};

use super::{Setup, Step, Store, load_busybox, long_or_skip, play, same_on_both, script_on_both};

const RUNTIMES: &str = r#"
125 docker run --rm --runtime nobody busybox true
125 docker run --rm --runtime io.containerd.nobody.v2 busybox true
125 docker run --rm --runtime /no/such/shim busybox true
125 docker run --rm --runtime ../shim busybox true
127 docker run --rm --runtime absent busybox true 2>&1 | grep -c '/no/such/runtime.*no such file'; exit ${PIPESTATUS[0]}
127 docker run --rm --runtime fails busybox true
127 docker run --rm --runtime garbage busybox true 2>&1 >/dev/null | grep -c 'init.pid.*no such file'; exit ${PIPESTATUS[0]}
0   docker create --name kept --runtime absent busybox true | wc -c
1   docker start kept 2>&1 | grep -c '/no/such/runtime.*no such file'; exit ${PIPESTATUS[0]}
0   docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' kept; docker rm kept; docker ps -aq
0   docker run --rm --runtime real busybox echo by another
3   docker run --name of-another --runtime real busybox sh -c 'echo err >&2; exit 3'
0   docker start -a of-another 2>&1; docker inspect -f '{{.HostConfig.Runtime}} {{.State.ExitCode}}' of-another; docker rm of-another
0   docker run -d --name long --runtime real busybox sleep 1000 | wc -c; docker exec long echo in it; docker pause long; docker unpause long; docker update --memory 64m --memory-swap 64m long; docker top long -o args | tail -1; docker kill long; docker wait long; docker rm long
127 docker run --rm --runtime real busybox not-there
0   docker run --rm busybox echo by the usual one
"#;

const FULL: &str = r#"
0   docker run -d --name there -v vol:/v busybox sh -c 'echo kept >/v/file; echo made >/made; exec sleep 1000' | wc -c; eventually docker exec there test -s /made
0   mkdir big large; printf 'FROM busybox\nRUN echo before >/before\nRUN head -c 100000000 /dev/zero >/zeros\nRUN echo never\n' >big/Dockerfile
0   printf 'FROM busybox\nCOPY file /file\n' >large/Dockerfile; head -c 60000000 /dev/urandom >large/file; tar -C large -cf large.tar file
0   head -c 8000000 /dev/zero >../root/filler; docker build -t big big 2>&1 | grep -o -i 'no space left on device' | head -1
0   docker build -t large large 2>&1 | grep -o -i 'no space left on device' | head -1
0   docker images --format '{{.Repository}}'; docker exec there cat /made /v/file
0   rm ../root/filler; docker builder prune -af >/dev/null; docker run --rm busybox echo room again
0   printf 'FROM busybox\nRUN echo built >/built\n' | docker build -q -t small - | cut -c1-7; docker run --rm small cat /built
1   docker exec there sh -c 'head -c 100000000 /dev/zero >/zeros'
0   docker exec there sh -c 'rm /zeros; cat /made'; docker images --format '{{.Repository}}' | sort
0   docker import large.tar broken:1 2>&1 | grep -o -i 'o space left on device' | head -1; docker images --format '{{.Repository}}' | sort
0   docker exec there true && docker commit there committed:1 | cut -c1-7; docker run --rm committed:1 cat /made
0   docker images --format '{{.Repository}}' | sort; docker restart -t 0 there; docker exec there cat /made /v/file
0   docker rm -f there; docker rmi small committed:1 | grep -c Untagged; docker run --rm -v vol:/v busybox cat /v/file; docker ps -aq
"#;

/// A registry's files are changed behind its back, so that what it serves is not what its names say.
///
/// Each pull begins with nothing, or what is there already would not be asked for. The messages come from dockerd's own
/// pull or from the daemon's parts; each must be of the word that a line begins with.
const LIES: &str = r#"
0   cat >lies <<'END'
    box=127.0.0.1:5000/team/box; r=../registry-0.data/docker/registry/v2; c=../root/io.containerd.content.v1.content
    blob() { echo $r/blobs/sha256/${1:7:2}/${1:7}/data; }
    config=$(grep -o 'sha256:[0-9a-f]*' manifest | sed -n 1p); layer=$(grep -o 'sha256:[0-9a-f]*' manifest | sed -n 2p); manifest=$(cat digest)
    nothing() {
    docker rmi -f $(docker images -q $box) >/dev/null 2>&1; docker tag keeper gone; docker rmi gone >/dev/null
    for d in $config $layer; do ! test -e $c/blobs/sha256/${d:7} || return 1; done; test -z "$(ls $c/ingest)"
    }
    pull() {
    eventually nothing; docker pull -q $1 >pulled 2>said && cat pulled && return
    grep -q -i -E "$word" said || cat said; return 1
    }
    lie() { word=$1; f=$(blob $2); shift 2; cp $f truth; "$@" <truth >$f; pull $box:1; code=$?; cp truth $f; return $code; }
    publish() {
    word=$1; cat >said; d=$(sha256sum <said | cut -d' ' -f1); mkdir -p $r/blobs/sha256/${d:0:2}/$d; cp said $(blob sha256:$d)
    for l in revisions/sha256/$d tags/$2/current tags/$2/index/sha256/$d; do l=$r/repositories/team/box/_manifests/$l; mkdir -p $l; printf sha256:$d >$l/link; done
    pull $box:$2
    }
    END
    tar -c lies | docker import - keeper >/dev/null; docker tag busybox 127.0.0.1:5000/team/box:1; docker push -q 127.0.0.1:5000/team/box:1
    d=$(cat ../registry-0.data/docker/registry/v2/repositories/team/box/_manifests/tags/1/current/link); cat $(. ./lies 2>/dev/null; blob $d) >manifest; echo $d >digest
    docker rmi -f busybox 127.0.0.1:5000/team/box:1 >/dev/null
1   . ./lies; lie 'digest|verif' $layer tr '\0' '\1'
1   . ./lies; lie 'digest|eof|verif' $layer head -c 5000
1   . ./lies; lie 'digest|size|verif' $layer sh -c 'cat; echo more'
1   . ./lies; lie 'digest|eof|verif' $layer true
1   . ./lies; lie 'digest|size|verif' $config sed s/linux/windows/
1   . ./lies; lie 'digest|size|verif' $config sed s/linux/minix/
1   . ./lies; lie 'digest|eof|verif' $config true
1   . ./lies; lie 'digest|size|verif' $manifest sed s/$layer/$config/
1   . ./lies; lie 'json|digest|size|verif' $manifest echo '{'
1   . ./lies; lie 'json|digest|size|verif' $manifest true
1   . ./lies; word='not found|unknown'; mv $(blob $layer) away; pull $box:1; code=$?; mv away $(blob $layer); exit $code
1   . ./lies; sed "s/$layer/$config/" manifest | publish 'eof|tar' two
SIZE. ./lies; sed -E 's/"size": ?[0-9]+/"size":7/g' manifest | publish size small
SIZE. ./lies; sed -E 's/"size": ?[0-9]+/"size":70000000/g' manifest | publish 'size|eof' large
1   . ./lies; sed "s/$layer/sha256:short/" manifest | publish 'digest|checksum' short
1   . ./lies; sed "s/$layer/..\/..\/etc\/passwd/" manifest | publish 'digest|checksum|found' path
1   . ./lies; echo garbage | publish 'json|invalid|manifest' garbage
1   . ./lies; word='not found|unknown'; pull $box@sha256:$(seq 64 | sha256sum | cut -c1-64)
1   . ./lies; word='not found|unexpected|404'; mkdir empty; busybox httpd -f -p 127.0.0.1:5001 -h empty & sleep 0.3; pull 127.0.0.1:5001/team/box:1; code=$?; kill $!; exit $code
0   docker images --format '{{.Repository}}'; docker ps -aq
0   . ./lies; pull $box:1; docker run --rm $box:1 echo the truth; docker pull -q $box@$manifest
0   docker rmi -f $(docker images -q | sort -u) | grep -c Untagged; docker images -aq
"#;

#[test]
fn a_runtime_that_is_none_is_named() {
    if long_or_skip() {
        let Some(peers) = Peers::or_skip() else {
            return;
        };
        let runtimes = json!({
            "absent": {"path": "/no/such/runtime"},
            "fails": {"path": "/bin/false"},
            "garbage": {"path": "/bin/echo"},
            "real": {"path": peers.sid.join("runc")},
        });
        let setup = Setup::new(Store::Overlay2).with("runtimes", runtimes);
        script_on_both(&setup, RUNTIMES);
    }
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_build_loses_nothing() {
    if long_or_skip() {
        same_on_both(&Setup::new(Store::Containerd).with_network(), |dockerd| {
            on_a_small_disk(dockerd);
            play(dockerd, FULL)
        });
    }
}

/// Gives the daemon below little room for everything that it keeps.
fn on_a_small_disk(dockerd: &mut Dockerd) {
    dockerd.kill();
    dockerd.daemon.kill();
    dockerd.ok("mount -t tmpfs -o size=48m tmpfs ../root");
    dockerd.daemon.restart();
    dockerd.restart();
    load_busybox(dockerd);
}

#[test]
fn a_registry_that_lies_is_not_believed_by_the_graph_driver() {
    if long_or_skip() {
        // Dockerd's own pull does not look at sizes.
        same_on_both(&lied_to(Store::Overlay2), |dockerd| {
            believed(dockerd, "0   ")
        });
    }
}

#[test]
fn a_registry_that_lies_is_not_believed_by_the_image_store() {
    if long_or_skip() {
        same_on_both(&lied_to(Store::Containerd), |dockerd| {
            believed(dockerd, "1   ")
        });
    }
}

/// Returns a set-up that asks once, where Docker asks again and again by default.
fn lied_to(store: Store) -> Setup {
    Setup::new(store).with("max-download-attempts", json!(1))
}

fn believed(dockerd: &mut Dockerd, sizes: &str) -> Vec<Step> {
    dockerd.serve_registry("127.0.0.1:5000", "");
    play(dockerd, &LIES.replace("SIZE", sizes))
}
