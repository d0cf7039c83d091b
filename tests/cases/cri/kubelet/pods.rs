//! What pods are made of, from manifests in a folder.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Kubelet, LOG_SIZE, of_container, same, script};

/// Returns the lines of a container's log in the order of the alphabet: two streams have none between them.
fn lines(kubelet: &Kubelet, pod: &str, container: &str) -> Vec<String> {
    let log = kubelet.container_log(pod, container);
    let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_static_pod_lives_as_long_as_its_manifest() {
    same(|kubelet| {
        let said = "echo out; echo err >&2; hostname; sleep 1000";
        kubelet.create("web", &json!({"containers": [script("main", said)]}));
        kubelet.ready("web", "main");
        let log = lines(kubelet, "web", "main");
        let status = kubelet.status("web");
        let ip = status["podIP"].as_str().unwrap_or_default();
        let own = ip.starts_with("10.88.");
        kubelet.delete("web");
        kubelet.wait("the pod is gone", || {
            kubelet.node.ok(&["pods", "-q"]).is_empty().then_some(())
        });
        (
            log,
            status["phase"].clone(),
            status["qosClass"].clone(),
            own,
        )
    });
}

#[test]
fn init_containers_and_sidecars_begin_and_end_in_order() {
    same(|kubelet| {
        let folder = kubelet.folder("shared");
        fs::create_dir(&folder).expect("make a folder");
        let until_told = |name: &str| {
            format!(
                "trap 'echo {name} ends >>/shared/order; exit 0' TERM; echo {name} >>/shared/order; \
                 touch /shared/{name}; while :; do sleep 0.1; done"
            )
        };
        let container = |name: &str, text: &str| {
            let mut container = script(name, text);
            container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
            container
        };
        let mut sidecar = container("sidecar", &until_told("sidecar"));
        sidecar["restartPolicy"] = json!("Always");
        sidecar["startupProbe"] =
            json!({"exec": {"command": ["test", "-e", "/shared/sidecar"]}, "periodSeconds": 1});
        kubelet.create(
            "web",
            &json!({
                "terminationGracePeriodSeconds": 30,
                "initContainers": [
                    container("first", "sleep 1; echo first >>/shared/order"),
                    sidecar,
                    container("last", "echo last >>/shared/order"),
                ],
                "containers": [container("main", &until_told("main"))],
                "volumes": [{"name": "shared", "hostPath": {"path": folder, "type": "Directory"}}],
            }),
        );
        let order = || fs::read_to_string(folder.join("order")).unwrap_or_default();
        kubelet.ready("web", "main");
        kubelet.wait("the first container has begun", || {
            order().contains("main").then_some(())
        });
        let status = kubelet.status("web");
        let inits = ["first", "last"].map(|name| {
            let container = of_container(&status, name).cloned().unwrap_or_default();
            let state = &container["state"]["terminated"];
            (state["reason"].clone(), state["exitCode"].clone())
        });
        let sidecar = of_container(&status, "sidecar")
            .cloned()
            .unwrap_or_default();
        kubelet.delete("web");
        kubelet.wait("the sidecar has ended", || {
            order().contains("sidecar ends").then_some(())
        });
        (order(), inits, sidecar["ready"].clone())
    });
}

#[test]
fn probes_decide_what_is_ready_and_what_lives() {
    same(|kubelet| {
        let web = |name: &str, port: u16, probe: &str| {
            let text =
                format!("mkdir /www; echo fine >/www/health; busybox httpd -f -p {port} -h /www");
            let mut container = script(name, &text);
            container[probe] = match probe {
                "livenessProbe" => json!({"tcpSocket": {"port": port}}),
                _ => json!({"httpGet": {"path": "/health", "port": port}}),
            };
            container[probe]["periodSeconds"] = json!(1);
            container
        };
        let mut mortal = script("mortal", "touch /live; sleep 3; rm /live; sleep 1000");
        mortal["livenessProbe"] = json!({
            "exec": {"command": ["cat", "/live"]},
            "initialDelaySeconds": 1,
            "periodSeconds": 1,
            "failureThreshold": 1,
        });
        let mut never = script("never", "sleep 1000");
        never["readinessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
        let mut hangs = script("hangs", "sleep 1000");
        hangs["readinessProbe"] = json!({
            "exec": {"command": ["sleep", "100"]}, "periodSeconds": 1, "timeoutSeconds": 1,
        });
        kubelet.create(
            "web",
            &json!({"containers": [
                web("http", 80, "readinessProbe"),
                web("tcp", 81, "livenessProbe"),
                web("starts", 82, "startupProbe"),
                mortal,
                never,
                hangs,
            ]}),
        );
        for name in ["http", "tcp", "starts"] {
            kubelet.ready("web", name);
        }
        let last = kubelet.wait_for("what does not live begins again", "web", |status| {
            let container = of_container(status, "mortal")?;
            let last = &container["lastState"]["terminated"];
            let again = container["restartCount"].as_u64()? > 0 && container["ready"] == true;
            again.then(|| (last["reason"].clone(), last["exitCode"].clone()))
        });
        let status = kubelet.status("web");
        let states = ["http", "tcp", "starts", "never", "hangs"].map(|name| {
            let container = of_container(&status, name).cloned().unwrap_or_default();
            (
                container["ready"].clone(),
                container["restartCount"].clone(),
            )
        });
        (last, states)
    });
}

#[test]
fn what_ends_begins_again_as_its_policy_says() {
    same(|kubelet| {
        let pod = |policy: &str, text: &str| json!({"restartPolicy": policy, "containers": [script("main", text)]});
        kubelet.create("crashes", &pod("Always", "echo again; exit 3"));
        kubelet.create(
            "done",
            &pod("OnFailure", "echo because >/dev/termination-log"),
        );
        kubelet.create(
            "failed",
            &pod("Never", "echo because >/dev/termination-log; exit 4"),
        );
        let ended = ["done", "failed"].map(|name| {
            kubelet.wait_for("the pod has ended", name, |status| {
                let main = of_container(status, "main")?;
                let state = main["state"]["terminated"].as_object()?;
                let state = ["reason", "exitCode", "message"].map(|key| state.get(key).cloned());
                let phase = status["phase"].as_str()?.to_owned();
                (phase != "Running").then_some((phase, main["restartCount"].clone(), state))
            })
        });
        let waits = kubelet.wait_for("it is waited for", "crashes", |status| {
            let main = of_container(status, "main")?;
            let last = &main["lastState"]["terminated"];
            let waits = main["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            (waits && main["restartCount"].as_u64()? >= 2)
                .then(|| (last["reason"].clone(), last["exitCode"].clone()))
        });
        let log = kubelet.container_log("crashes", "main");
        (ended, waits, log)
    });
}

#[test]
fn volumes_hold_what_they_are_to() {
    same(|kubelet| {
        let host = kubelet.folder("host");
        fs::create_dir(&host).expect("make a folder");
        fs::write(host.join("given"), "from the host\n").expect("write a file");
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let item =
            |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
        let looks = "cat /host/given; echo from inside >/host/taken; touch /read-only/x || echo refused; \
             echo kept >/empty/f; cat /part/f; cat /info/labels /info/name; echo; \
             stat -c '%a %g' /empty /memory; df /memory | tail -n 1 | cut -d' ' -f1; \
             echo \"$NAME $LIMIT $UID_OF_POD\" | tr -d -c 'a-z0-9 '; id -u; id -G; \
             grep -o 'memory:/.*' /proc/self/cgroup >/dev/null && cat /sys/fs/cgroup/memory/memory.limit_in_bytes; \
             sleep 1000";
        let mut main = script("main", &format!("exec 2>/dev/null; {looks}"));
        main["volumeMounts"] = json!([
            {"name": "host", "mountPath": "/host"},
            {"name": "host", "mountPath": "/read-only", "readOnly": true},
            {"name": "empty", "mountPath": "/empty"},
            {"name": "empty", "mountPath": "/part", "subPath": "sub"},
            {"name": "memory", "mountPath": "/memory"},
            {"name": "info", "mountPath": "/info"},
        ]);
        main["env"] = json!([
            {"name": "NAME", "valueFrom": field("metadata.name")},
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ]);
        main["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
        main["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000});
        fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .expect("change the mode");
        kubelet.create(
            "web",
            &json!({
                "securityContext": {"fsGroup": 2000},
                "containers": [main],
                "initContainers": [{
                    "name": "writes",
                    "command": ["sh", "-c", "echo of a part >/empty/sub/f; chmod 644 /empty/sub/f"],
                    "volumeMounts": [
                        {"name": "empty", "mountPath": "/empty"},
                        {"name": "empty", "mountPath": "/part", "subPath": "sub"},
                    ],
                }],
                "volumes": [
                    {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
                    {"name": "empty", "emptyDir": {}},
                    {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                    // A projected volume, which a kubelet with an API server makes of this one, takes that server.
                    {"name": "info", "downwardAPI": {"items": [
                        item("labels", "metadata.labels"),
                        item("name", "metadata.name"),
                    ]}},
                ],
            }),
        );
        kubelet.ready("web", "main");
        let taken = kubelet.wait("the container has written", || {
            fs::read_to_string(host.join("taken"))
                .ok()
                .filter(|text| text.ends_with('\n'))
        });
        let log = kubelet.wait_for_log("web", "main", "67108864\n");
        let class: Value = kubelet.status("web")["qosClass"].clone();
        (taken, log, class)
    });
}

#[test]
fn a_log_that_grows_goes_on_in_another_file() {
    same(|kubelet| {
        // The first lines are too much for one file; those after them come as long as the container lives.
        let lines = LOG_SIZE / 20;
        let counts =
            format!("seq {lines}; i={lines}; while sleep 0.1; do i=$((i+1)); echo $i; done");
        kubelet.create("web", &json!({"containers": [script("main", &counts)]}));
        kubelet.ready("web", "main");
        let folder = || -> Option<PathBuf> {
            let pod = fs::read_dir(kubelet.folder("logs")).ok()?.next()?.ok()?;
            Some(pod.path().join("main"))
        };
        let files = kubelet.wait("the log goes on in another file", || {
            let files = fs::read_dir(folder()?).ok()?.flatten();
            // The names of older files go on with their time: the current one is the first.
            let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
            files.sort();
            let current = fs::read_to_string(files.first()?).ok()?;
            (files.len() == 2 && current.lines().count() > 3).then_some(files)
        });
        // Numbers that are written meanwhile are in neither or in both, if it is read in this order.
        let texts =
            [&files[1], &files[0]].map(|file| fs::read_to_string(file).expect("read a log"));
        let numbers: Vec<usize> = texts
            .iter()
            .flat_map(|text| text.lines())
            .map_while(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len()), "{texts:?}");
        assert!(numbers.len() > lines, "{texts:?}");
    });
}
