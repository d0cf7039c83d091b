//! Services between pods, by the node's proxy and network plugins.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::command;

use super::super::kubelet::{ADDRESS, script};
use super::{Cluster, of_kind, same};

const NODE_PORT: u16 = 30080;

/// A request for a page. Debian's static wget does not get as far as that without the libraries of its C library.
const REQUEST: &str = "printf 'GET / HTTP/1.0\\r\\n\\r\\n'";

/// Returns what is answered last to a pod that asks many times.
fn answers(cluster: &Cluster, host: &str, port: u16) -> BTreeSet<String> {
    let ask = format!("for i in $(seq 20); do {REQUEST} | nc -w 5 {host} {port} | tail -n 1; done");
    let said = cluster.run(&["exec", "client", "--", "sh", "-c", &ask]);
    said.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn services_lead_to_the_pods_that_are_ready() {
    same(|cluster| {
        let text = "mkdir /www; hostname >/www/index.html; touch /up; exec busybox httpd -f -p 8080 -h /www";
        let mut main = script("main", text);
        main["readinessProbe"] = json!({
            "exec": {"command": ["test", "-e", "/up"]}, "periodSeconds": 1, "failureThreshold": 1,
        });
        let template = cluster.template("web", &json!({"containers": [main]}));
        let mut web = of_kind("Deployment", "web", &template);
        web["spec"]["replicas"] = json!(3);
        cluster.apply(&web);
        cluster.apply(&json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort",
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
            },
        }));
        cluster.ok(&["rollout", "status", "deployment/web", "--timeout=120s"]);
        // Made after the service, it has that in its environment.
        cluster.pod(
            "client",
            &json!({"containers": [script("main", "sleep 100000")]}),
        );
        let ip = cluster.get(&["service", "web"])["spec"]["clusterIP"].clone();
        let ip = ip.as_str().unwrap_or_default().to_owned();
        let names = |pods: &[Value]| -> BTreeSet<String> {
            let names = pods
                .iter()
                .filter_map(|pod| pod["metadata"]["name"].as_str());
            names.map(str::to_owned).collect()
        };
        let pods = cluster.pods("web");
        let all = names(&pods);
        cluster.wait("every pod answers", || {
            (answers(cluster, &ip, 80) == all).then_some(())
        });
        let environment = cluster.ok(&[
            "exec",
            "client",
            "--",
            "sh",
            "-c",
            "echo $WEB_SERVICE_HOST:$WEB_SERVICE_PORT",
        ]);
        // What the API server says to who speaks without TLS.
        let server = answers(cluster, "$KUBERNETES_SERVICE_HOST", 443);

        // From the node itself, at its address.
        let node = format!("http://{ADDRESS}:{NODE_PORT}/");
        let mut wget = cluster.kubelet.node.daemon.command("/bin/busybox");
        wget.args(["wget", "-q", "-O", "-", &node]);
        let by_node = command::run(&mut wget).ok();

        // A pod to another, with no service between.
        let direct = pods[0]["status"]["podIP"].as_str().unwrap_or_default();
        let direct = answers(cluster, direct, 8080);
        let first: BTreeSet<String> = names(&pods[..1]);

        // One that is not ready any more is led to no more.
        let name = first.first().map_or("", String::as_str);
        cluster.ok(&["exec", name, "--", "rm", "/up"]);
        let others: BTreeSet<String> = all.difference(&first).cloned().collect();
        cluster.wait("the others answer", || {
            (answers(cluster, &ip, 80) == others).then_some(())
        });
        cluster.ok(&["scale", "deployment/web", "--replicas=0"]);
        cluster.wait("nobody answers", || {
            answers(cluster, &ip, 80).is_empty().then_some(())
        });
        (
            environment == format!("{ip}:80"),
            server,
            all.contains(by_node.trim_end()),
            direct == first,
        )
    });
}
