//! What becomes of pods when the kubelet or its daemon ends and is started again.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tests::Engine;

use super::{of_container, same, script};

#[test]
fn pods_outlive_the_kubelet() {
    same(|kubelet| {
        let spec = json!({"containers": [script("main", "sleep 1000")]});
        kubelet.create("stays", &spec);
        kubelet.create("goes", &spec);
        let [before, _] = ["stays", "goes"].map(|pod| kubelet.ready(pod, "main"));
        kubelet.kill();
        kubelet.delete("goes");
        kubelet.spawn();
        let after = kubelet.ready("stays", "main");
        kubelet.wait("what is not wanted any more is gone", || {
            let pods = kubelet.node.ok(&["pods", "-q"]);
            (pods.lines().count() == 1).then_some(())
        });
        let status = kubelet.status("stays");
        let restarts = of_container(&status, "main").map(|main| main["restartCount"].clone());
        (before == after, restarts)
    });
}

#[test]
fn pods_outlive_the_daemon_and_what_ended_meanwhile_is_told() {
    same(|kubelet| {
        let folder = kubelet.folder("shared");
        fs::create_dir(&folder).expect("make a folder");
        let mut ends = script(
            "ends",
            "until test -e /shared/end; do sleep 0.1; done; exit 5",
        );
        ends["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
        kubelet.create(
            "web",
            &json!({
                "restartPolicy": "Never",
                "containers": [script("main", "sleep 1000"), ends],
                "volumes": [{"name": "shared", "hostPath": {"path": folder, "type": "Directory"}}],
            }),
        );
        let [before, _] = ["main", "ends"].map(|container| kubelet.ready("web", container));
        kubelet.node.daemon.kill();
        fs::write(folder.join("end"), "").expect("write a file");
        std::thread::sleep(Duration::from_secs(2));
        kubelet.node.daemon.restart();
        let code = kubelet.wait_for("the end is told", "web", |status| {
            let ends = of_container(status, "ends")?;
            ends["state"]["terminated"]["exitCode"].as_i64()
        });
        // Upstream's daemon has not seen it, and does not ask its shim.
        if kubelet.node.daemon.engine == Engine::Corten {
            assert_eq!(code, 5);
        }
        let after = kubelet.ready("web", "main");
        let run = kubelet.run_in("web", "main", "echo hi");
        (before == after, run)
    });
}
