//! Many pods at once, others in their places, and a daemon that is killed meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::kubelet::script;
use super::{Cluster, condition, of_kind, restarts, same};

const PODS: u64 = 20;

/// Returns the deployment that all is about, in one of its versions.
fn deployment(cluster: &Cluster, version: &str) -> Value {
    let mut main = script("main", "touch /up; sleep 100000");
    main["env"] = json!([{"name": "VERSION", "value": version}]);
    main["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/up"]}});
    let template = cluster.template("web", &json!({"containers": [main]}));
    let mut deployment = of_kind("Deployment", "web", &template);
    deployment["spec"]["replicas"] = json!(PODS);
    deployment
}

/// Waits until only pods of the newest version are there, and returns the versions and how many are ready.
fn rolled_out(cluster: &Cluster) -> (BTreeSet<String>, usize) {
    cluster.ok(&["rollout", "status", "deployment/web", "--timeout=280s"]);
    let pods = cluster.wait("the old pods are gone", || {
        let pods = cluster.pods("web");
        (pods.len() as u64 == PODS).then_some(pods)
    });
    let version = |pod: &Value| {
        let value = &pod["spec"]["containers"][0]["env"][0]["value"];
        value.as_str().unwrap_or_default().to_owned()
    };
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let addresses: BTreeSet<&str> = pods
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    assert_eq!(
        addresses.len() as u64,
        PODS,
        "each has an address of its own"
    );
    (pods.iter().map(version).collect(), ready)
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == Some("True")
}

#[test]
fn twenty_pods_are_replaced_though_the_daemon_dies() {
    same(|cluster| {
        cluster.apply(&deployment(cluster, "first"));
        let first = rolled_out(cluster);
        cluster.apply(&deployment(cluster, "second"));
        cluster.wait_for("some pods are replaced", "deployment", "web", |web| {
            let status = &web["status"];
            let replaced = status["updatedReplicas"].as_u64()?;
            let total = status["replicas"].as_u64()?;
            (replaced >= 8 && total > replaced).then_some(())
        });
        let mut lived = cluster.pods("web");
        lived.retain(is_ready);
        let daemon = &mut cluster.kubelet.node.daemon;
        daemon.kill();
        std::thread::sleep(Duration::from_secs(2));
        daemon.restart();
        let second = rolled_out(cluster);
        // A container that was being started then may have been started anew, but none that was ready.
        let mut now = cluster.pods("web");
        now.retain(|pod| {
            lived
                .iter()
                .any(|lived| lived["metadata"]["uid"] == pod["metadata"]["uid"])
        });
        let again = now.iter().map(restarts).sum::<u64>();
        cluster.ok(&["rollout", "undo", "deployment/web"]);
        let back = rolled_out(cluster);
        cluster.ok(&["scale", "deployment/web", "--replicas=0"]);
        cluster.wait("all pods are gone", || {
            cluster.pods("web").is_empty().then_some(())
        });
        let run = cluster.kubelet.node.ok(&["ps", "-q"]);
        (first, second, again, back, run)
    });
}
