//! nerdctl and BuildKit, unchanged, on `cortend`: lines of shell that must print what they print on upstream containerd.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tests::command::EVENTUALLY;
use tests::image::Layer;
use tests::{Daemon, Engine, Image, Network, Peers, command, peers, print_skip};

/// How long one scenario may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What the lines can use beside [`EVENTUALLY`]: `n` is nerdctl.
const PRELUDE: &str = r#"
n() { nerdctl --address "$SOCKET" --namespace "$NAMESPACE" --data-root "$PWD/data" --cgroup-manager cgroupfs \
    --cni-path "$CNI" --cni-netconfpath "$PWD/cni" "$@"; }
is() { [ "$(n inspect -f '{{.State.Status}}' "$2")" = "$1" ]; }
"#;

/// Runs lines of shell with nerdctl on upstream's daemon and on ours, which must print the same.
fn same(lines: &str) {
    let Some(found) = Peers::or_skip() else {
        return;
    };
    let (Some(programs), Some(cri)) = (
        peers::folder("nerdctl.env", "PEERS_NERDCTL"),
        peers::folder("cri.env", "PEERS_CRI"),
    ) else {
        return print_skip("needs nerdctl and BuildKit: make test-nerdctl runs it");
    };
    let said = |engine| {
        let daemon = start(engine, &found);
        let said = run(&daemon, &programs, &cri.join("cni"), lines);
        daemon.assert_nothing_left();
        said
    };
    let upstream = said(Engine::Containerd2);
    let ours = said(Engine::Corten);
    assert_eq!(ours, upstream, "left: ours, right: upstream's");
}

/// Starts a daemon that has the image `busybox:1` and restarts containers within a second.
fn start(engine: Engine, found: &Peers) -> Daemon {
    let version = match engine {
        Engine::Corten => "version = 3\n",
        _ => "",
    };
    let config = format!(
        "{version}[plugins.\"io.containerd.monitor.container.v1.restart\"]\ninterval = \"500ms\"\n"
    );
    let daemon = Daemon::start_in(engine, found, &config, Some(Network::with_state()));
    let mut web = Layer::new();
    web.symlink("bin/httpd", "busybox");
    web.symlink("bin/wget", "busybox");
    web.folder("www", 0o755);
    web.file("www/index.html", 0o644, b"a page\n");
    let image = Image::busybox_recipe().layer(web.finish()).build();
    let archive = image.write_archive(daemon.folder(), "docker.io/library/busybox:1");
    let archive = archive.display().to_string();
    daemon.ctr().ok(&["images", "import", &archive]);
    daemon
}

fn run(daemon: &Daemon, programs: &Path, plugins: &Path, lines: &str) -> String {
    let work = daemon.folder().join("work");
    fs::create_dir(&work).expect("make a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = daemon.command("sh");
    shell
        .args([
            "-euc",
            &format!("cd \"$WORK\"\n{EVENTUALLY}{PRELUDE}{lines}"),
        ])
        .env("WORK", &work)
        .env("HOME", &work)
        .env("SOCKET", daemon.address())
        .env("NAMESPACE", &daemon.namespace)
        .env("CNI", plugins)
        .env("PATH", format!("{}:{path}", programs.display()))
        .stdin(Stdio::null());
    command::run_with(&mut shell, b"", LIMIT).ok()
}

#[test]
fn containers_live_as_they_do_on_containerd() {
    same(
        r#"
        n run -d --name one --net none busybox:1 sh -c 'echo out; echo err >&2; trap "exit 7" TERM; while :; do sleep 0.1; done' >/dev/null
        eventually sh -c 'true'; sleep 0.5
        n ps --format '{{.Names}} {{.Image}} {{.Status}}'
        n logs one 2>/dev/null; n logs one 2>&1 >/dev/null
        n exec one echo from inside
        n exec -u 1000:1000 -w /www one sh -c 'id -u; pwd' || echo "exec: $?"
        n top one | grep -c trap
        n pause one; n ps --format '{{.Status}}'; n unpause one
        n stop one; is exited one; n inspect -f '{{.State.ExitCode}}' one
        n start one; eventually is running one
        n rename one other; n ps --format '{{.Names}}'
        n kill other >/dev/null; n wait other
        n rm other
        n run --rm --net none busybox:1 sh -c 'exit 9' || echo "run: $?"
        n ps -a
        "#,
    );
}

#[test]
fn flags_of_run_arrive_in_the_container() {
    same(
        r#"
        r() { n run --rm --net none "$@" || echo "code $?"; }
        r -m 64m busybox:1 sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max' 2>/dev/null
        r --read-only --tmpfs /x busybox:1 sh -c 'echo a > /x/a && cat /x/a; echo b > /b' 2>/dev/null
        r --user 1000:1001 --group-add 7 busybox:1 id
        r --cap-drop ALL --cap-add CHOWN busybox:1 grep Cap /proc/self/status
        r --privileged busybox:1 sh -c 'mount -t tmpfs t /tmp && echo mounted'
        r --ulimit nofile=100:200 --sysctl kernel.shmmni=77 --hostname here busybox:1 sh -c 'ulimit -n; cat /proc/sys/kernel/shmmni; hostname'
        r -e A=1 -w /www --entrypoint sh busybox:1 -c 'echo $A; pwd'
        r --security-opt no-new-privileges busybox:1 grep -E 'NoNewPrivs|Seccomp:' /proc/self/status
        n volume create vol >/dev/null
        r -v vol:/v busybox:1 sh -c 'echo kept > /v/f' 2>/dev/null; r -v vol:/v:ro busybox:1 cat /v/f 2>/dev/null
        n volume rm vol
        "#,
    );
}

#[test]
fn images_are_committed_copied_saved_and_loaded() {
    same(
        r#"
        n run -d --name one --net none busybox:1 sleep 1000 >/dev/null
        echo a file > in; n cp in one:/in; n exec one cat /in; n cp one:/in out; cat out
        n diff one | grep -c '^A /in$'
        n commit one committed:1 | cut -d: -f1
        n run --rm --net none committed:1 cat /in
        n tag committed:1 again:2
        n save -o saved.tar again:2
        n rmi -f committed:1 again:2 >/dev/null
        n load -i saved.tar | tail -n 1
        n run --rm --net none again:2 cat /in
        n images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | sort
        n image inspect -f '{{.RootFS.Type}}' again:2
        n rm -f one
        n image prune -af >/dev/null; n images -q
        "#,
    );
}

#[test]
fn containers_find_each_other_on_networks() {
    same(
        r#"
        n network create net >/dev/null 2>&1
        n run -d --name web --network net busybox:1 httpd -f -p 80 -h /www >/dev/null
        n inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web
        sleep 0.5
        n run --rm --network net busybox:1 wget -qO- http://web/
        n run -d --name out -p 127.0.0.1:8099:80 busybox:1 httpd -f -p 80 -h /www >/dev/null
        n port out
        eventually busybox wget -qO- http://127.0.0.1:8099/; busybox wget -qO- http://127.0.0.1:8099/
        n run --rm --network container:web busybox:1 wget -qO- http://127.0.0.1/
        n rm -f web out; n network rm net
        "#,
    );
}

#[test]
fn containers_are_restarted_and_services_composed() {
    same(
        r#"
        n run -d --name again --restart on-failure:2 --net none busybox:1 sh -c 'echo once; exit 3' >/dev/null
        ran() { [ "$(n logs again | grep -c once)" = "$1" ]; }
        eventually ran 3; sleep 2; ran 3 && echo three times
        n rm -f again
        cat > compose.yaml <<'END'
services:
  web:
    image: busybox:1
    command: httpd -f -p 80 -h /www
  client:
    image: busybox:1
    command: sh -c 'until wget -qO- http://web/; do sleep 0.2; done; sleep 1000'
    depends_on: [web]
END
        n compose -p stack up -d >/dev/null 2>&1
        n compose -p stack ps --format json | grep -o '"Name":"[^"]*"' | sort
        page() { n logs stack-client-1 2>/dev/null | grep -q 'a page'; }
        eventually page; echo seen
        n compose -p stack down >/dev/null 2>&1
        n ps -aq
        "#,
    );
}

#[test]
fn buildkit_builds_with_the_daemon_as_its_worker() {
    same(
        r#"
        buildkitd --addr "unix://$PWD/b.sock" --root "$PWD/buildkit" --oci-worker=false --containerd-worker=true \
            --containerd-worker-addr "$SOCKET" --containerd-worker-namespace "$NAMESPACE" \
            --containerd-worker-net host >buildkitd.log 2>&1 &
        buildkitd=$!
        trap 'kill $buildkitd; wait $buildkitd || true' EXIT
        export BUILDKIT_HOST="unix://$PWD/b.sock"
        eventually buildctl debug workers
        mkdir context; echo secret > secret
        cat > context/Dockerfile <<'END'
FROM docker.io/library/busybox:1 AS first
RUN echo built > /first
RUN --mount=type=cache,target=/cache echo x >> /cache/c && cat /cache/c > /cached
FROM docker.io/library/busybox:1
COPY --from=first /first /cached /
RUN --mount=type=secret,id=s cat /run/secrets/s > /secret
RUN <<EOT
echo here > /here
EOT
RUN test ! -e /run/secrets/s && rm /www/index.html
USER 1000
CMD ["cat", "/first", "/cached", "/secret", "/here"]
END
        n build -q -t built:1 --secret id=s,src=secret context >/dev/null
        n run --rm --net none built:1
        n run --rm --net none built:1 ls /www
        n run --rm --net none built:1 id -u
        n build -t built:2 --secret id=s,src=secret --progress plain context 2>&1 | grep -c CACHED
        printf 'FROM docker.io/library/busybox:1\nRUN exit 5\n' > context/Dockerfile
        n build -q context 2>&1 | grep -o 'exit code: 5' | head -n 1
        buildctl prune --all >/dev/null
        "#,
    );
}
