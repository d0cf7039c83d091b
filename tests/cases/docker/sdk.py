"""Docker's SDK for Python drives the REST API; what it prints is compared between the daemons below dockerd."""

import io
import tarfile
import threading

import docker
from docker.errors import APIError, ContainerError, DockerException, ImageNotFound

client = docker.from_env(timeout=60)
api = client.api


def say(what, *values):
    print(what + ":", *values, flush=True)


def refused(what, call, *args, **kwargs):
    """Says how a call is refused that must be."""
    try:
        say(what, "was not refused", call(*args, **kwargs))
    except ContainerError as e:
        say(what, type(e).__name__, e.exit_status, e.stderr)
    except APIError as e:
        say(what, type(e).__name__, e.status_code, e.explanation)
    except DockerException as e:
        say(what, type(e).__name__, e)


def archive(name, data, mode=0o644):
    """Returns a tar archive with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), mode
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def server():
    say("ping", client.ping())
    version, info = client.version(), client.info()
    say("components", [part["Name"] for part in version["Components"]])
    say("info", info["Driver"], info["CgroupDriver"], info["DefaultRuntime"], info["Containers"], info["Warnings"])
    say("df", sorted(client.df()))


def running():
    run = client.containers.run
    say("run", run("busybox", "echo hello", remove=True))
    both = run("busybox", ["sh", "-c", "echo out; echo err >&2"], remove=True, stdout=True, stderr=True)
    say("both", sorted(both.splitlines()))
    say("stream", list(run("busybox", "seq 3", remove=True, stream=True)))
    refused("exit 3", run, "busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    refused("no program", run, "busybox", "not-there", remove=True)
    refused("no image", run, "127.0.0.1:1/none", "true")
    refused("no runtime", run, "busybox", "true", runtime="nobody")
    options = dict(
        environment={"A": "b"}, user="1000:1000", working_dir="/tmp", hostname="boat", network_mode="none",
        mem_limit="64m", pids_limit=50, cap_drop=["ALL"], cap_add=["CHOWN"], read_only=True, tmpfs={"/t": "size=64k"},
        ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)], sysctls={"kernel.msgmax": "65000"},
        security_opt=["no-new-privileges"], shm_size="1m", oom_score_adj=300, init=True, group_add=["77"],
        volumes={"sdk": {"bind": "/v", "mode": "rw"}}, labels={"of": "sdk"}, remove=True,
    )
    look = "echo $A; id; pwd; hostname; grep -E '^(CapEff|NoNewPrivs|Seccomp:)' /proc/self/status; ulimit -n; ulimit -Hn; cat /proc/sys/kernel/msgmax /proc/self/oom_score_adj; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max; df -k /t /dev/shm | awk 'NR > 1 { print $2 }'; touch /x 2>&1"
    for line in run("busybox", ["sh", "-c", look + "; true"], **options).decode().splitlines():
        say("inside", line)


def processes():
    script = 'trap "echo told; exit 4" TERM; echo begun; while :; do sleep 0.1; done'
    box = client.containers.run("busybox", ["sh", "-c", script], name="box", detach=True, stop_signal="TERM")
    say("follows", next(iter(box.logs(stream=True, follow=True))))
    box.reload()
    say("status", box.status, box.attrs["State"]["Running"], box.attrs["Platform"], box.attrs["Driver"])
    say("exec", box.exec_run("sh -c 'echo out; echo err >&2; exit 5'", demux=True))
    say("exec as", box.exec_run("sh -c 'id -u; pwd; echo $C'", user="user", workdir="/etc", environment={"C": "d"}))
    say("exec at a terminal", box.exec_run("sh -c 'tty; stty size'", tty=True, stdin=True).exit_code)
    say("exec privileged", box.exec_run("grep CapEff /proc/self/status", privileged=True))
    say("exec of nothing", box.exec_run("not-there"))
    say("exec streams", list(box.exec_run("seq 2", stream=True).output))

    # An exec as its parts: what is written to its socket comes back, and its end is known afterwards.
    made = api.exec_create(box.id, ["sh", "-c", "read line; echo got $line; exit 6"], stdin=True, stdout=True)
    before = api.exec_inspect(made["Id"])
    say("made", before["Running"], before["ExitCode"], before["ProcessConfig"]["entrypoint"])
    socket = api.exec_start(made["Id"], socket=True)
    socket._sock.sendall(b"word\n")
    said = b""
    while chunk := socket.read(4096):
        said += chunk
    say("said", said)
    after = api.exec_inspect(made["Id"])
    say("ended", after["Running"], after["ExitCode"])
    refused("exec of none", api.exec_inspect, "0" * 64)
    detached = api.exec_create(box.id, "true")
    say("detached", api.exec_start(detached["Id"], detach=True))

    say("top", box.top(ps_args="-o pid,args")["Titles"], len(box.top()["Processes"]) >= 1)
    stats = box.stats(stream=False)
    say("stats", stats["name"], stats["pids_stats"]["current"] >= 1, stats["memory_stats"]["usage"] > 0)
    streamed = box.stats(stream=True, decode=True)
    say("stats stream", [sorted(next(streamed))[:3] for _ in range(2)])
    box.pause()
    box.reload()
    say("paused", box.status)
    refused("exec while paused", box.exec_run, "true")
    refused("pause twice", box.pause)
    box.unpause()
    box.update(mem_limit="48m", memswap_limit="96m", cpu_shares=300)
    say("updated", box.exec_run("cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares"))
    box.rename("crate")
    box.reload()
    say("renamed", box.name)
    refused("remove while it runs", box.remove)
    refused("bad signal", box.kill, "NOSUCH")

    ends = []
    waiter = threading.Thread(target=lambda: ends.append(box.wait(condition="next-exit")))
    waiter.start()
    box.stop(timeout=20)
    waiter.join(30)
    say("stopped", ends, box.wait(), box.logs(stderr=False).splitlines()[-1])
    say("tail", box.logs(tail=1), len(box.logs(timestamps=True).split(b" ")[0]) > 20)
    refused("kill what has ended", box.kill)
    box.start()
    box.restart(timeout=20)
    box.kill("TERM")
    say("told", box.wait()["StatusCode"])
    box.remove()
    refused("get what is gone", client.containers.get, "crate")

    attached = client.containers.create("busybox", ["sh", "-c", "cat; exit 7"], stdin_open=True, name="asked")
    stdin = attached.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    attached.start()
    stdin._sock.sendall(b"typed\n")
    stdin._sock.shutdown(1)
    said = b""
    while chunk := stdin.read(4096):
        said += chunk
    say("attached", said, attached.wait()["StatusCode"])
    attached.remove()

    terminal = client.containers.run("busybox", "sh", name="term", tty=True, stdin_open=True, detach=True)
    terminal.resize(41, 121)
    say("resized", terminal.exec_run("sh -c 'stty size </proc/1/fd/0'"))
    terminal.remove(force=True)
    say("pruned", client.containers.prune()["ContainersDeleted"])


def files():
    box = client.containers.run("busybox", ["sh", "-c", "echo made >/made; sleep 1000"], name="files", detach=True)
    while box.exec_run("test -s /made").exit_code:
        pass
    say("put", box.put_archive("/tmp", archive("in", b"data\n", 0o640)))
    say("there", box.exec_run("sh -c 'cat /tmp/in; stat -c %a /tmp/in'"))
    stream, stat = box.get_archive("/made")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        say("got", stat["name"], stat["size"], tar.extractfile("made").read())
    refused("get what is not there", box.get_archive, "/none")
    say("diff", sorted((change["Path"], change["Kind"]) for change in box.diff()))
    with tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))) as tar:
        say("export", sorted(name for name in tar.getnames() if name in ("made", "tmp/in")))
    image = box.commit("made", "1", message="said", conf={"Cmd": ["cat", "/made"], "Env": ["X=y"]})
    say("commit", image.tags, client.containers.run("made:1", remove=True), image.attrs["Config"]["Env"])
    box.remove(force=True)


def images():
    image = client.images.get("busybox")
    say("image", image.tags, image.attrs["Os"], len(image.attrs["RootFS"]["Layers"]), len(image.history()))
    say("tag", image.tag("example.org/a/b", "1"), sorted(sum((i.tags for i in client.images.list()), [])))
    saved = b"".join(client.images.get("example.org/a/b:1").save(named="example.org/a/b:1"))
    client.images.remove("example.org/a/b:1")
    say("load", [loaded.tags for loaded in client.images.load(saved)])
    refused("load garbage", client.images.load, b"no archive")
    refused("get none", client.images.get, "none:1")
    refused("remove none", client.images.remove, "none:1")
    refused("pull from nobody", client.images.pull, "127.0.0.1:1/none", "1")
    built, log = client.images.build(
        fileobj=io.BytesIO(b"FROM busybox\nRUN echo built >/built\nLABEL of=sdk\nCMD cat /built\n"), tag="built:1", rm=True
    )
    say("build", built.labels, sum("stream" in line for line in log) > 3, client.containers.run("built:1", remove=True))
    try:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 9\n"), rm=True, forcerm=True)
    except docker.errors.BuildError as e:
        say("build fails", e.msg)
    imported = api.import_image_from_data(archive("file", b"x"), repository="flat", tag="1")
    say("import", "sha256:" in imported, client.images.get("flat:1").attrs["Architecture"])
    for name in ("flat:1", "built:1", "made:1", "example.org/a/b:1"):
        client.images.remove(name, force=True)
    try:
        client.images.get("flat:1")
    except ImageNotFound as e:
        say("gone", e.status_code)
    say("left", sorted(sum((i.tags for i in client.images.list()), [])))


def volumes_and_networks():
    volume = client.volumes.create("kept", labels={"a": "b"})
    say("volume", volume.name, volume.attrs["Driver"], volume.attrs["Labels"])
    mount = docker.types.Mount("/v", "kept")
    client.containers.run("busybox", "sh -c 'echo x >/v/f'", mounts=[mount], remove=True)
    user = client.containers.create("busybox", "cat /v/f", mounts=[mount])
    refused("remove what is used", volume.remove)
    user.start()
    say("volume's file", user.wait()["StatusCode"], user.logs())
    user.remove()
    volume.remove()
    say("volumes", sorted(v.name for v in client.volumes.list()))
    say("pruned", client.volumes.prune({"all": "true"})["VolumesDeleted"])
    say("networks", sorted(n.name for n in client.networks.list()))
    refused("no such network", client.containers.run, "busybox", "true", network="none-such", remove=True)
    say("left of that", len(client.containers.prune()["ContainersDeleted"]))


def events():
    heard = client.events(decode=True, filters={"type": "container"})
    box = client.containers.create("busybox", ["sh", "-c", "exit 3"], name="seen", healthcheck={"test": ["NONE"]})
    box.start()
    box.wait()
    box.remove()
    told = []
    for event in heard:
        told.append((event["Action"], event["Actor"]["Attributes"].get("exitCode")))
        if event["Action"] == "destroy":
            break
    heard.close()
    say("events", told)


for part in (server, running, processes, files, images, volumes_and_networks, events):
    say("#", part.__name__)
    part()
say("containers", [box.name for box in client.containers.list(all=True)])
