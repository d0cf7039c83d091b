//! `docker run` in the forms that people use.

use super::{Setup, Store, long_or_skip, script_on_both};

/// What even the short run tries.
pub(super) const SHORT: &str = r#"
0   docker run --rm busybox echo hello
0   docker run --rm busybox
3   docker run --rm busybox sh -c 'echo out; echo err >&2; exit 3'
0   echo typed | docker run -i --rm busybox cat
0   docker run --rm -e A=b -w /tmp -u user --group-add 2001 busybox sh -c 'echo $A; pwd; id'
127 docker run --rm busybox not-there
126 docker run --rm busybox /etc
125 docker run --rm --no-such-flag busybox true
137 docker run --rm --init busybox sh -c 'kill -KILL $$'
0   docker run -d --name one busybox sleep 1000
0   docker exec one sh -c 'echo from exec; id -u'
9   docker exec one sh -c 'exit 9'
127 docker exec one not-there
0   docker kill one && docker wait one
0   docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}}' one
0   docker rm one
0   docker ps -aq
"#;

/// Who the process is and where.
pub(super) const IDENTITY: &str = r#"
0   docker run --rm -u 1000 busybox id
0   docker run --rm -u user:extra busybox id
0   docker run --rm -u 4321:1234 busybox id
0   docker run --rm -u user --group-add extra --group-add 77 busybox id
125 docker run --rm -u no-such-user busybox id
0   docker run --rm -w /made/on/the/way busybox sh -c 'pwd; ls -ld .'
0   docker run --rm -h boat --domainname example.org busybox sh -c 'hostname; cat /proc/sys/kernel/domainname; cat /etc/hostname'
0   docker run --rm --add-host here:10.9.8.7 -h boat --network none busybox cat /etc/hosts
0   printf 'A=from file\n# no\nB=two\n' >env; docker run --rm --env-file env -e B=three -e C -h boat busybox env | sort
0   docker run --rm --entrypoint /bin/echo busybox a 'b c'
0   docker run --rm --entrypoint '' busybox echo cleared
127 docker run --rm --entrypoint /nowhere/sh busybox
126 docker run --rm --entrypoint /etc/passwd busybox
0   docker run --rm --init busybox sh -c 'cat /proc/1/cmdline | tr "\0" " "; ls -l /sbin/docker-init | cut -c1-10'
0   docker run --rm -h boat busybox sh -c 'grep -v cgroup /proc/self/mounts | sed s/lowerdir=.*//'
0   docker run --rm busybox sh -c 'ls -l /dev | tr -s " " | cut -d" " -f1,3-6,10-; ls /proc/self/fd'
0   docker run --rm busybox sh -c 'grep -E "^(Cap|Seccomp|NoNewPrivs|Uid|Gid|Groups)" /proc/self/status'
0   docker run --rm busybox sh -c 'cat /proc/self/limits | grep -v -e pending'
0   docker run --rm busybox sh -c 'umask; cat /proc/self/oom_score_adj; cat /proc/self/attr/current 2>/dev/null; ulimit -n'
0   docker run --rm busybox sh -c 'for f in kcore keys timer_list; do wc -c </proc/$f; done; touch /proc/sys/kernel/x; ls /proc/acpi /sys/firmware 2>&1'
0   docker run --rm -t busybox sh -c 'tty; test -t 0 && test -t 1 && test -t 2 && echo all; stty size'
1   docker run --rm -it busybox echo refused
0   docker run --rm --label a=b --name labelled -d busybox sleep 100 && docker ps --filter label=a=b --format '{{.Names}} {{.Labels}}'; docker rm -f labelled
0   docker run --cidfile id -d busybox true && wc -c <id && docker wait $(cat id) && docker rm $(cat id)
125 docker run --cidfile id busybox true
125 docker run --rm --pull never not-there-at-all:1 true
125 docker run --name twice -d busybox sleep 100 >/dev/null; docker run --name twice busybox; code=$?; docker rm -f twice >/dev/null; exit $code
0   docker run --rm --platform linux/amd64 busybox uname -s
"#;

/// What the process may do.
const CONFINED: &str = r#"
0   docker run --rm --cap-drop ALL --cap-add CHOWN --cap-add NET_BIND_SERVICE busybox grep Cap /proc/self/status
0   docker run --rm --cap-add NET_ADMIN --cap-drop MKNOD busybox grep Cap /proc/self/status
125 docker run --rm --cap-add NO_SUCH busybox true
0   docker run --rm -u user busybox grep Cap /proc/self/status
0   docker run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
0   docker run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
0   echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":74}]}' >profile.json
    docker run --rm --security-opt seccomp=profile.json busybox sh -c 'mkdir /x; echo $?; touch /y; echo $?'
125 echo '{' >broken.json; docker run --rm --security-opt seccomp=broken.json busybox true
0   docker run --rm busybox sh -c 'mount -t tmpfs none /mnt; mknod /tmp/sda b 8 0; unshare -m true; chroot /bin true; mkdir /mnt'
1   docker run --rm --read-only busybox sh -c 'touch /x; touch /dev/shm/x && echo shm; touch /run/x'
0   docker run --rm --read-only --tmpfs /run:size=64k,mode=700 --tmpfs /tmp busybox sh -c 'touch /run/x /tmp/x && echo wrote; grep -E " /(run|tmp) " /proc/mounts | sort; ls -ld /run'
0   docker run --rm --privileged busybox sh -c 'grep -E "^(Seccomp|NoNewPrivs)" /proc/self/status; mount -t tmpfs none /mnt 2>&1 || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted; touch /proc/sys/kernel/domainname && echo writable; ls /dev | grep -c .'
0   docker run --rm --ulimit nofile=500:1000 --ulimit core=0 --ulimit nproc=300 busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c; grep -E "processes" /proc/self/limits'
125 docker run --rm --ulimit nofile=2000:1000 busybox true
0   docker run --rm --sysctl kernel.msgmax=65000 --sysctl net.ipv4.ip_unprivileged_port_start=99 busybox cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start
125 docker run --rm --sysctl kernel.no_such_thing=1 busybox true
0   docker run --rm --device /dev/null:/dev/nought:r busybox sh -c 'ls -l /dev/nought | cut -c1-10; cat /dev/nought && echo read; echo x >/dev/nought'; true
127 docker run --rm --device /dev/not-there busybox true
0   docker run --rm --device-cgroup-rule 'c 1:3 rwm' --cap-add MKNOD busybox sh -c 'mknod /n c 1 3 && echo x >/n && echo wrote'
0   docker run --rm --oom-score-adj 300 busybox cat /proc/self/oom_score_adj
0   docker run --rm --shm-size 1m busybox sh -c 'df -k /dev/shm | tail -1 | tr -s " "'
"#;

/// Limits, as the container's groups have them.
const LIMITS: &str = r#"
0   docker run --rm --memory 64m --memory-reservation 32m busybox sh -c 'cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.soft_limit_in_bytes'
0   docker run --rm --memory 64m --memory-swap -1 --memory-swappiness 10 busybox sh -c 'cat /sys/fs/cgroup/memory/memory.swappiness'
125 docker run --rm --memory 1m busybox true
0   docker run --rm --cpus 1.5 --cpu-shares 512 busybox sh -c 'cd /sys/fs/cgroup/cpu*/; cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us /sys/fs/cgroup/cpu/cpu.shares'
0   docker run --rm --cpu-period 50000 --cpu-quota 20000 busybox cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us
0   docker run --rm --cpuset-cpus 0 --cpuset-mems 0 busybox sh -c 'cat /sys/fs/cgroup/cpuset/cpuset.cpus /sys/fs/cgroup/cpuset/cpuset.mems; grep Cpus_allowed_list /proc/self/status; nproc'
125 docker run --rm --cpuset-cpus 77 busybox true
0   docker run --rm --pids-limit 20 busybox sh -c 'cat /sys/fs/cgroup/pids/pids.max'
2   docker run --rm --pids-limit 4 busybox sh -c 'for i in 1 2 3 4 5 6; do sleep 1 & done; echo never'
137 docker run --name hog --memory 16m --memory-swap 16m busybox sh -c 'tail /dev/zero'
0   docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' hog; docker rm hog
0   docker run -d --name fat --memory 16m --memory-swap 16m --oom-kill-disable busybox sleep 100; docker exec fat head -1 /sys/fs/cgroup/memory/memory.oom_control; docker rm -f fat
0   docker run -d --name grows --memory 32m busybox sleep 100
0   docker update --memory 48m --memory-swap 96m --cpu-shares 300 --pids-limit 50 grows
0   docker exec grows sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/pids/pids.max'
1   docker update --memory 1k grows
0   docker update --restart unless-stopped grows && docker inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Memory}}' grows
0   docker rm -f grows
0   docker run --rm --cgroup-parent /NAMESPACE/deeper busybox true
"#;

/// Namespaces of others.
const SHARED: &str = r#"
0   docker run -d --name aa --ipc shareable -h boat busybox sh -c 'echo shm >/dev/shm/file; sleep 1000'
0   docker run --rm --pid container:aa busybox sh -c 'ps | grep -c "sleep 1000"; readlink /proc/1/root'
0   docker run --rm --ipc container:aa busybox sh -c 'cat /dev/shm/file'
0   docker run --rm --network container:aa busybox hostname
0   docker run --rm --pid container:aa --network container:aa --ipc container:aa busybox sh -c 'for n in pid net ipc uts mnt cgroup; do a=$(readlink /proc/1/ns/$n); b=$(readlink /proc/self/ns/$n); test "$a" = "$b" && echo same $n || echo other $n; done'
0   docker run --rm --ipc none busybox sh -c 'ls -d /dev/shm; ls /dev/mqueue'; true
0   docker run --rm --ipc host busybox sh -c 'readlink /proc/self/ns/ipc' | { read a; [ $a = $(readlink /proc/self/ns/ipc) ] && echo of the host; }
0   docker run --rm --uts host busybox hostname | { read a; [ $a = $(hostname) ] && echo of the host; }
0   docker run --rm --pid host busybox readlink /proc/self/ns/pid | { read a; [ $a = $(readlink /proc/self/ns/pid) ] && echo of the host; }
0   docker run --rm --network host busybox readlink /proc/self/ns/net | { read a; [ $a = $(readlink /proc/self/ns/net) ] && echo of the host; }
0   docker run --rm --cgroupns private busybox cat /proc/self/cgroup | sort
0   docker run --rm --cgroupns host busybox cat /proc/self/cgroup | sort
125 docker run --rm --userns host --pid container:none busybox true
0   docker stop -t 0 aa; docker rm aa
"#;

/// Volumes and mounts.
const MOUNTS: &str = r#"
0   mkdir -p shared; echo outside >shared/file; docker run --rm -v $PWD/shared:/mnt busybox sh -c 'cat /mnt/file; echo inside >/mnt/new'; cat shared/new
0   docker run --rm -v $PWD/shared:/mnt:ro busybox sh -c 'cat /mnt/file; touch /mnt/no'; true
0   docker run --rm -v $PWD/shared/file:/etc/one-file:ro busybox cat /etc/one-file
0   docker run --rm -v named:/data busybox sh -c 'echo kept >/data/file' && docker run --rm -v named:/data:ro busybox cat /data/file; docker volume ls
0   docker run --rm -v copied:/etc busybox cat /etc/group; docker run --rm -v copied:/x busybox ls /x
0   docker run --rm --mount type=volume,src=bare,dst=/etc,volume-nocopy busybox ls /etc
0   docker run --rm --mount type=bind,src=$PWD/shared,dst=/mnt,readonly busybox sh -c 'cat /mnt/file; touch /mnt/no'; true
125 docker run --rm --mount type=bind,src=$PWD/nowhere,dst=/mnt busybox true
0   docker run --rm --mount type=tmpfs,dst=/mnt,tmpfs-size=65536,tmpfs-mode=1770 busybox sh -c 'ls -ld /mnt; df -k /mnt | tail -1 | tr -s " "'
125 docker run --rm --mount type=bind,src=$PWD/shared,dst=/mnt,bind-propagation=rslave busybox true
0   mkdir slave && mount --bind slave slave && mount --make-shared slave; docker run --rm --mount type=bind,src=$PWD/slave,dst=/mnt,bind-propagation=rslave busybox sh -c 'grep " /mnt " /proc/self/mountinfo | grep -o "master"'
0   docker run --rm --mount type=bind,src=$PWD,dst=/mnt,bind-recursive=disabled busybox cat /mnt/shared/file
0   docker run --rm --mount type=bind,src=$PWD,dst=/mnt,readonly,bind-propagation=rprivate,bind-recursive=readonly busybox cat /mnt/shared/file
0   docker run -d --name keeper -v /kept busybox sh -c 'echo of keeper >/kept/file; sleep 100'; eventually docker exec keeper test -s /kept/file; docker run --rm --volumes-from keeper busybox cat /kept/file
0   docker inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}{{end}}' keeper; docker rm -fv keeper
0   docker volume create --label a=b plain && docker volume inspect -f '{{.Driver}} {{.Labels}} {{.Mountpoint}}' plain
1   docker run -d --name user -v plain:/p busybox sleep 100 >/dev/null; docker volume rm plain; code=$?; docker rm -f user >/dev/null; exit $code
0   docker volume prune -af | sort
0   docker run --rm -v $PWD/made/by/docker:/mnt busybox ls -ld /mnt | cut -c1-40; ls -d made/by/docker
0   docker run --rm --tmpfs /a:ro,noexec busybox grep ' /a ' /proc/mounts
125 docker run --rm -v relative/path:/mnt busybox true
125 docker run --rm -v $PWD/shared:relative busybox true
"#;

#[test]
fn containers_run_on_the_graph_driver() {
    script_on_both(&Setup::new(Store::Overlay2), SHORT);
}

#[test]
fn containers_run_on_the_image_store() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Containerd), SHORT);
    }
}

#[test]
fn a_container_is_who_and_where_it_is_told() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), IDENTITY);
    }
}

#[test]
fn a_container_may_do_what_it_is_told() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Containerd), CONFINED);
    }
}

#[test]
fn limits_of_a_container_hold() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), LIMITS);
    }
}

#[test]
fn containers_share_namespaces() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Overlay2), SHARED);
    }
}

#[test]
fn volumes_and_mounts_are_there() {
    if long_or_skip() {
        script_on_both(&Setup::new(Store::Containerd), MOUNTS);
    }
}
