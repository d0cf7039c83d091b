//! What kubectl does in pods, by way of the API server, the kubelet and the daemon's streams.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tests::{command, eventually};

use super::super::kubelet::script;
use super::same;

#[test]
fn kubectl_reads_logs_and_runs_commands() {
    same(|cluster| {
        let text = "ln -s busybox /bin/tar; test -e /data/again || { touch /data/again; echo out; echo err >&2; exit 9; }; \
             echo again; echo and again; sleep 100000";
        let mut main = script("main", text);
        main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        let mut shell = script("shell", "cat; echo closed; sleep 100000");
        shell["stdin"] = json!(true);
        shell["stdinOnce"] = json!(true);
        cluster.pod(
            "web",
            &json!({
                "containers": [main, shell],
                "volumes": [{"name": "data", "emptyDir": {}}],
            }),
        );
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        cluster.wait_for_log("web", "main", "again\n");
        let logs = [&["--tail=1"][..], &["--previous"], &["--since=1h"]]
            .map(|more| sorted(cluster.ok(&[&["logs", "web", "-c", "main"], more].concat())));

        let exec =
            |script: &str| cluster.run(&["exec", "web", "-c", "main", "--", "sh", "-c", script]);
        let failed = exec("echo out; echo err >&2; exit 7");
        let failed = (
            failed.code,
            failed.stdout,
            failed.stderr.starts_with("err\n"),
        );
        let large = exec("seq 100000").stdout.lines().count();
        let piped = ["exec", "-i", "web", "-c", "main", "--", "wc", "-c"];
        let piped = cluster.run_with(&piped, &vec![b'x'; 3 << 20]).ok();

        let folder = cluster.kubelet.folder("copies");
        fs::create_dir_all(folder.join("there/inner")).expect("make a folder");
        fs::write(folder.join("there/inner/file"), "over and back\n").expect("write a file");
        let path = |name: &str| folder.join(name).display().to_string();
        cluster.ok(&["cp", &path("there"), "web:/tmp/there", "-c", "main"]);
        cluster.ok(&["cp", "web:/tmp/there", &path("back"), "-c", "main"]);
        let back = fs::read_to_string(folder.join("back/inner/file")).expect("read a file");

        let attached =
            cluster.run_with(&["attach", "-i", "-q", "web", "-c", "shell"], b"typed in\n");
        let attached = (attached.code, attached.stdout);
        let shell = cluster.wait_for_log("web", "shell", "closed\n");
        let image = &cluster.kubelet.node.image;
        let once = [
            "run",
            "once",
            "--image",
            image,
            "--restart=Never",
            "--rm",
            "-i",
            "-q",
            "--",
            "cat",
        ];
        let once = cluster.run_with(&once, b"through a pod\n");
        (
            (logs, failed),
            (large, piped),
            back,
            (attached, shell),
            (once.code, once.stdout),
        )
    });
}

#[test]
fn kubectl_forwards_ports() {
    same(|cluster| {
        let text = "mkdir /www; seq 100000 >/www/large; echo hi >/www/index.html; exec busybox httpd -f -p 8080 -h /www";
        let mut main = script("main", text);
        main["readinessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
        cluster.pod("web", &json!({"containers": [main]}));
        let mut forward = cluster.plane.kubectl(
            &cluster.kubelet,
            &["port-forward", "pod/web", "18080:8080", "18081:8081"],
        );
        let mut forward = forward
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start kubectl");
        let mut said = BufReader::new(forward.stdout.take().expect("asked for a pipe")).lines();
        let begun = said.next().and_then(Result::ok).unwrap_or_default();
        let get = |port: u16, page: &str| {
            let mut wget = cluster.kubelet.node.daemon.command("/bin/busybox");
            let url = format!("http://127.0.0.1:{port}/{page}");
            let finished = command::run(wget.args(["wget", "-q", "-T", "10", "-O", "-", &url]));
            (finished.code, finished.stdout.lines().count())
        };
        // One after the other, and over a port where nobody listens between them.
        let pages = [
            get(18080, ""),
            get(18080, "large"),
            get(18081, ""),
            get(18080, "large"),
        ];
        let many: Vec<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| get(18080, "large")))
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().expect("it does not panic"))
                .collect()
        });
        let _ = forward.kill();
        let _ = forward.wait();
        (begun.contains("18080 -> 8080"), pages, many)
    });
}

#[test]
fn kubectl_looks_into_a_pod_with_another_container() {
    same(|cluster| {
        let mut main = script("main", "echo secret >/file; sleep 100001");
        main["readinessProbe"] =
            json!({"exec": {"command": ["test", "-e", "/file"]}, "periodSeconds": 1});
        cluster.pod("web", &json!({"containers": [main]}));
        // It shares the processes of the container that it looks into, so their files too.
        let look = "ps | grep -c '[s]leep 100001'; pid=$(ps | grep '[s]leep 100001' | head -n 1 | tr -s ' ' | sed 's/^ //' | cut -d' ' -f1); \
             cat /proc/$pid/root/file; hostname; exit 4"
            .replace("sed ", "busybox sed ")
            .replace("cut ", "busybox cut ");
        let image = format!("--image={}", cluster.kubelet.node.image);
        let debug = [
            "debug",
            "web",
            &image,
            "--target=main",
            "-c",
            "look",
            "--attach=false",
            "-q",
            "--profile=general",
        ];
        cluster.ok(&[&debug[..], &["--", "sh", "-c", &look]].concat());
        let end = cluster.wait_for("the other container has ended", "pod", "web", |pod| {
            let look = &pod["status"]["ephemeralContainerStatuses"][0];
            let end = look["state"]["terminated"].as_object()?;
            Some(["exitCode", "reason"].map(|key| end.get(key).cloned()))
        });
        let said = cluster.ok(&["logs", "web", "-c", "look"]);
        // And one that is talked to.
        let debug = [
            "debug",
            "web",
            &image,
            "-c",
            "talk",
            "-i",
            "-q",
            "--profile=general",
            "--",
            "cat",
        ];
        let talked = command::run_with(
            &mut cluster.plane.kubectl(&cluster.kubelet, &debug),
            b"talked to\n",
            Duration::from_secs(120),
        );
        let log = eventually("its log is whole", Duration::from_secs(30), || {
            let log = cluster.run(&["logs", "web", "-c", "talk"]).stdout;
            (!log.is_empty()).then_some(log)
        });
        (end, said, talked.code, log)
    });
}
