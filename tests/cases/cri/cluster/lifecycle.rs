//! How pods end and begin again, what the node says of itself, and a kubelet that is started anew.

use std::fs;

use serde_json::{Value, json};

use super::super::kubelet::{NAME, script};
use super::{condition, restarts, same, shared};

#[test]
fn pods_are_given_the_time_to_end() {
    same(|cluster| {
        let (folder, volume) = shared(cluster, "ends");
        let waits = |name: &str, seconds: u32| {
            let text = format!(
                "trap 'echo told >/ends/{name}; sleep {seconds}; echo done >>/ends/{name}; exit 0' TERM; \
                 touch /up; while :; do sleep 0.1; done"
            );
            let mut main = script("main", &text);
            main["volumeMounts"] = json!([{"name": "ends", "mountPath": "/ends"}]);
            main["readinessProbe"] =
                json!({"exec": {"command": ["test", "-e", "/up"]}, "periodSeconds": 1});
            main
        };
        for (name, grace, takes) in [("patient", 60, 3), ("hurried", 2, 1000)] {
            cluster.pod(
                name,
                &json!({
                    "terminationGracePeriodSeconds": grace,
                    "containers": [waits(name, takes)],
                    "volumes": [volume],
                }),
            );
        }
        cluster.ok(&["delete", "pod", "patient", "hurried", "--timeout=120s"]);
        let told = ["patient", "hurried"].map(|name| fs::read_to_string(folder.join(name)).ok());
        let run = cluster.kubelet.node.ok(&["ps", "-q"]);
        (told, run)
    });
}

#[test]
fn what_does_not_live_begins_again() {
    same(|cluster| {
        let mut mortal = script("mortal", "touch /live; sleep 5; rm /live; sleep 100000");
        mortal["livenessProbe"] = json!({
            "exec": {"command": ["cat", "/live"]}, "initialDelaySeconds": 2, "periodSeconds": 1, "failureThreshold": 1,
        });
        let mut greedy = script("greedy", "sleep 1; tail /dev/zero");
        greedy["resources"] = json!({"limits": {"memory": "24Mi"}});
        let mut never = script("never", "sleep 100000");
        never["readinessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
        for container in [mortal, greedy, never] {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let template = cluster.template(&name, &json!({"containers": [container]}));
            cluster.apply(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"],
            }));
        }
        let ends = ["mortal", "greedy"].map(|name| {
            cluster.wait_for("it begins again", "pod", name, |pod| {
                let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
                (restarts(pod) > 0).then(|| [last["reason"].clone(), last["exitCode"].clone()])
            })
        });
        let never = cluster.get(&["pod", "never"]);
        let unready = (
            condition(&never, "Ready").map(str::to_owned),
            restarts(&never),
        );
        let why = cluster.wait("it is told why", || {
            let events = ["events", "--field-selector", "reason=Unhealthy"];
            let events = cluster.get(&events);
            let mut found = events["items"].as_array()?.iter();
            let found = found.find(|event| event["involvedObject"]["name"] == "mortal")?;
            found["message"].as_str().map(str::to_owned)
        });
        (ends, unready, why)
    });
}

#[test]
fn the_node_says_how_it_is_and_what_is_used() {
    same(|cluster| {
        cluster.pod(
            "web",
            &json!({"containers": [script("main", "sleep 100000")]}),
        );
        let node = cluster.get(&["node", NAME]);
        let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
            .map(|kind| condition(&node, kind).map(str::to_owned));
        let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].clone();
        assert!(
            version
                .as_str()
                .is_some_and(|text| text.starts_with("containerd://")),
            "{version}"
        );
        let images = node["status"]["images"].as_array().into_iter().flatten();
        let sizes = images
            .clone()
            .filter(|image| image["sizeBytes"].as_u64() > Some(0));
        let images = (images.count(), sizes.count());
        let summary = format!("/api/v1/nodes/{NAME}/proxy/stats/summary");
        let used = cluster.wait("the pod's use is known", || {
            let summary: Value =
                serde_json::from_str(&cluster.ok(&["get", "--raw", &summary])).ok()?;
            let mut pods = summary["pods"].as_array()?.iter();
            let pod = pods.find(|pod| pod["podRef"]["name"] == "web")?;
            let container = pod["containers"].as_array()?.first()?;
            let positive = |value: &Value| value.as_u64().is_some_and(|value| value > 0);
            let known = [
                &container["memory"]["workingSetBytes"],
                &container["cpu"]["usageCoreNanoSeconds"],
                &container["rootfs"]["usedBytes"],
                &pod["memory"]["workingSetBytes"],
                &pod["cpu"]["usageCoreNanoSeconds"],
                &pod["network"]["rxBytes"],
                &pod["process_stats"]["process_count"],
                &summary["node"]["runtime"]["imageFs"]["usedBytes"],
            ]
            .map(positive);
            // What is used is measured now and then, each part at times of its own.
            (known[0] && known[2] && known[3]).then_some(known)
        });
        (conditions, images, used)
    });
}

#[test]
fn pods_outlive_a_kubelet_that_has_a_cluster() {
    same(|cluster| {
        let spec = json!({"containers": [script("main", "sleep 100000")]});
        for name in ["stays", "goes"] {
            cluster.pod(name, &spec);
        }
        let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        let before = id(&cluster.get(&["pod", "stays"]));
        cluster.kubelet.kill();
        cluster.ok(&["delete", "pod", "goes", "--wait=false"]);
        cluster.kubelet.spawn();
        cluster.wait("what was taken meanwhile is gone", || {
            cluster.get(&["pod", "goes"]).is_null().then_some(())
        });
        cluster.pod("comes", &spec);
        let after = cluster.get(&["pod", "stays"]);
        let run = cluster.kubelet.node.ok(&["ps", "-q"]).lines().count();
        let said = cluster.ok(&["exec", "stays", "--", "echo", "hi"]);
        (before == id(&after), restarts(&after), run, said)
    });
}
