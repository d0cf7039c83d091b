//! Pods that controllers make: to be done with once, at times, and one on each node.

use serde_json::{Value, json};

use super::super::kubelet::script;
use super::{Cluster, of_kind, restarts, same};

/// Returns the specification of a job of pods that run a script.
fn job(cluster: &Cluster, app: &str, text: &str) -> Value {
    let spec = json!({"restartPolicy": "Never", "containers": [script("main", text)]});
    json!({"template": cluster.template(app, &spec)})
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Waits until a job is complete or has failed, and returns that and how many of its pods did what.
fn ended(cluster: &Cluster, name: &str) -> (String, Value, Value) {
    cluster.wait_for("the job has ended", "job", name, |job| {
        let status = &job["status"];
        let conditions = status["conditions"].as_array()?;
        let how = ["Complete", "Failed"].into_iter().find(|how| {
            conditions
                .iter()
                .any(|condition| condition["type"] == *how && condition["status"] == "True")
        })?;
        let counts = ["succeeded", "failed"].map(|key| status[key].clone());
        let [good, bad] = counts;
        Some((how.to_owned(), good, bad))
    })
}

#[test]
fn jobs_end_and_are_begun_again_at_their_times() {
    same(|cluster| {
        // It comes by the minute: what else is looked at here fills the time.
        let text = "echo at its time";
        let times = json!({
            "schedule": "* * * * *",
            "jobTemplate": {"spec": job(cluster, "at-times", text)},
        });
        cluster.apply(&object("CronJob", "at-times", &times));

        let mut good = job(cluster, "good", "echo \"part $JOB_COMPLETION_INDEX\"");
        good["completions"] = json!(4);
        good["parallelism"] = json!(2);
        good["completionMode"] = json!("Indexed");
        cluster.apply(&object("Job", "good", &good));
        let mut bad = job(cluster, "bad", "echo no; exit 3");
        bad["backoffLimit"] = json!(1);
        cluster.apply(&object("Job", "bad", &bad));
        let good = ended(cluster, "good");
        let bad = ended(cluster, "bad");
        let log = cluster.ok(&["logs", "-l", "app=good", "--tail=-1"]);
        let mut parts: Vec<&str> = log.lines().collect();
        parts.sort();
        let codes: Vec<Value> = cluster
            .pods("bad")
            .iter()
            .map(|pod| &pod["status"]["containerStatuses"][0]["state"]["terminated"])
            .map(|end| json!([end["exitCode"], end["reason"]]))
            .collect();

        let said = cluster.wait("a job has come by its time", || {
            // Until the container is there that is refused.
            let log = cluster.run(&["logs", "-l", "app=at-times", "--tail=-1"]);
            let log = log.stdout;
            log.lines().next().map(str::to_owned)
        });
        cluster.ok(&["delete", "cronjob", "at-times"]);
        (good, bad, parts.join("\n"), codes, said)
    });
}

#[test]
fn a_daemon_set_has_a_pod_on_the_node_and_the_kubelet_its_own() {
    same(|cluster| {
        let main = script("main", "sleep 100000");
        let spec = json!({"hostNetwork": true, "containers": [main]});
        let template = cluster.template("agent", &spec);
        cluster.apply(&of_kind("DaemonSet", "agent", &template));
        cluster.ok(&["rollout", "status", "daemonset/agent", "--timeout=120s"]);
        let pods = cluster.pods("agent");
        let of_set: Vec<(Value, Value, u64)> = pods
            .iter()
            .map(|pod| {
                let node = pod["spec"]["nodeName"].clone();
                (node, pod["status"]["podIP"].clone(), restarts(pod))
            })
            .collect();

        // A pod from the kubelet's folder is shown by the API server.
        let spec = json!({"containers": [script("main", "sleep 100000")]});
        cluster.kubelet.create("static", &spec);
        cluster.ready("static-here");
        // Gone from there it is made again, with the same container.
        let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        let before = id(&cluster.get(&["pod", "static-here"]));
        cluster.ok(&[
            "delete",
            "pod",
            "static-here",
            "--grace-period=0",
            "--force",
        ]);
        cluster.ready("static-here");
        let kept = id(&cluster.get(&["pod", "static-here"])) == before;
        cluster.kubelet.delete("static");
        (of_set, kept)
    });
}
