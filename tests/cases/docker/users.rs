//! `userns-remap`: root in a container is nobody on the host.

use super::{Setup, Store, long_or_skip, script_on_both};

/// A device is the host's node there, for none can be made; so it has the host's name.
const REMAPPED: &str = r#"
0   docker info --format '{{json .SecurityOptions}} {{json .Warnings}}'
0   docker run --rm busybox cat /proc/self/uid_map /proc/self/gid_map
0   docker run -d --name box busybox sh -c 'echo made >/made; exec sleep 1000'; pid=$(docker inspect -f '{{.State.Pid}}' box); stat -c '%u:%g' /proc/$pid; grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/$pid/status
0   eventually docker exec box test -s /made; docker exec box sh -c 'id; stat -c "%u:%g %n" /made /bin /etc/passwd /proc/1 /dev/null /dev/pts /dev/shm'
0   docker exec -u user box id; docker exec -u 1234:55 box sh -c 'id; touch /tmp/of-mine && stat -c %u:%g /tmp/of-mine'
0   docker exec -t box sh -c 'tty; stat -c %u:%g $(tty)'
0   docker exec box sh -c 'mount -t tmpfs none /mnt; mknod /x c 1 3; chown 1:2 /made && stat -c %u:%g /made'
0   docker exec --privileged box grep -E '^Cap' /proc/self/status
0   stat -c %u:%g "$(docker inspect -f '{{.GraphDriver.Data.MergedDir}}' box)/made"
0   docker cp box:/made made && stat -c %u:%g made; echo in >in; docker cp in box:/in; docker exec box stat -c %u:%g /in
0   docker diff box | sort
0   docker commit box made:1 | cut -c1-7; docker run --rm made:1 sh -c 'stat -c %u:%g /made /in; cat /made'
0   docker export box | tar -tv --numeric-owner | grep -E ' (made|in)$' | tr -s ' ' | cut -d' ' -f2
0   docker pause box && docker unpause box && docker top box -o uid,args | tail -1 | tr -s ' '
0   docker kill box && docker wait box && docker start box && docker restart -t 0 box && docker rm -f box
0   docker run --rm -v vol:/v busybox sh -c 'touch /v/file; stat -c %u:%g /v/file'; stat -c %u:%g $(docker volume inspect -f '{{.Mountpoint}}' vol)/file
0   mkdir bound; touch bound/of-root; chown 200005:200006 bound; docker run --rm -v $PWD/bound:/b busybox sh -c 'stat -c %u:%g /b /b/of-root; touch /b/x'; true
0   docker run --rm --tmpfs /t busybox sh -c 'stat -c %u:%g /t; touch /t/x && echo wrote'
0   docker run --rm --read-only busybox sh -c 'touch /x'; true
0   docker run --rm --memory 64m --pids-limit 50 --cpu-shares 300 busybox sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.shares'
0   docker run --rm --init -u 1000 busybox sh -c 'cat /proc/1/comm; id -u'
0   docker run --rm -h boat --sysctl kernel.msgmax=65000 busybox sh -c 'hostname; cat /proc/sys/kernel/msgmax; echo 1 >/proc/sys/kernel/printk'; true
127 docker run --rm --device /dev/null:/dev/nought busybox true 2>&1 | grep -c '/dev/nought.*no such file'; exit ${PIPESTATUS[0]}
0   docker run --rm --device /dev/kmsg busybox stat -c %t:%T /dev/kmsg
0   docker run --rm busybox sh -c 'grep -v cgroup /proc/self/mounts | sed s/lowerdir=.*//; ls -ln /dev | grep -v mqueue | tr -s " " | cut -d" " -f1,3-6,10-'
0   docker run --rm --userns host busybox sh -c 'cat /proc/self/uid_map; id -u'
0   docker run --rm --userns host --privileged busybox grep CapEff /proc/self/status
125 docker run --rm --privileged busybox true
125 docker run --rm --pid host busybox true
125 docker run --rm --network host busybox true
126 docker run --rm busybox /etc/passwd
127 docker run --rm busybox not-there
137 docker run --rm --memory 16m --memory-swap 16m busybox tail /dev/zero
0   mkdir b; printf 'FROM busybox\nRUN echo built >/built; id -u; cat /proc/self/uid_map\nCOPY file /file\nRUN stat -c %%u:%%g /built /file >/owners\n' >b/Dockerfile; echo x >b/file; docker build -q -t built b | cut -c1-7; docker run --rm built cat /built /owners
0   docker run -d --name aa --ipc shareable busybox sleep 1000; docker run --rm --pid container:aa --network container:aa --ipc container:aa busybox sh -c 'for n in user pid net ipc; do a=$(readlink /proc/1/ns/$n); b=$(readlink /proc/self/ns/$n); test "$a" = "$b" && echo same $n || echo other $n; done'; docker rm -f aa
0   docker rmi made:1 built >/dev/null; docker volume prune -af >/dev/null; docker ps -aq
"#;

#[test]
fn roots_of_containers_are_nobody_on_the_host() {
    if long_or_skip() {
        let setup = Setup::new(Store::Overlay2).with_network().remapped();
        script_on_both(&setup, REMAPPED);
    }
}
