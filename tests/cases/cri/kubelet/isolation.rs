//! What pods ask of their namespaces and of what their processes may do.

use std::fs;

use serde_json::json;

use super::{same, script};

#[test]
fn processes_may_what_their_pod_says_and_no_more() {
    same(|kubelet| {
        let folder = kubelet.folder("shared");
        fs::create_dir(&folder).expect("make a folder");
        let looks = "hostname; grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; id; \
             grep -w alias /etc/hosts; cat /etc/resolv.conf; cat /proc/sys/net/ipv4/ip_local_port_range; \
             touch /new || echo refused; until test -e /shared/begun; do sleep 0.1; done; \
             readlink /proc/1/exe; ulimit -c; echo end; sleep 1000";
        let mut main = script("main", &format!("exec 2>/dev/null; {looks}"));
        main["securityContext"] = json!({
            "runAsUser": 1000,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        let write = |name: &str| json!({"exec": {"command": ["sh", "-c", format!("echo {name} >/shared/{name}")]}});
        let mut hooks = script("hooks", "sleep 1000");
        hooks["lifecycle"] = json!({"postStart": write("begun"), "preStop": write("ends")});
        for container in [&mut main, &mut hooks] {
            container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
        }
        kubelet.create(
            "web",
            &json!({
                "terminationGracePeriodSeconds": 3,
                "hostname": "name",
                "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["alias"]}],
                "dnsPolicy": "None",
                "dnsConfig": {"nameservers": ["10.9.9.9"], "searches": ["a.local"], "options": [{"name": "ndots", "value": "3"}]},
                "shareProcessNamespace": true,
                "securityContext": {
                    "supplementalGroups": [3000],
                    "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "2000 3000"}],
                },
                "containers": [main, hooks],
                "volumes": [{"name": "shared", "hostPath": {"path": folder, "type": "Directory"}}],
            }),
        );
        let log = kubelet.wait_for_log("web", "main", "end\n");
        kubelet.delete("web");
        let told = kubelet.wait("what is to run before the end has run", || {
            fs::read_to_string(folder.join("ends"))
                .ok()
                .filter(|text| text.ends_with('\n'))
        });
        (log, told)
    });
}

#[test]
fn namespaces_are_the_hosts_or_their_own() {
    same(|kubelet| {
        let own = "readlink /proc/self/ns/net; tr -s ' ' </proc/self/uid_map; echo end; sleep 1000";
        let host = json!({"hostNetwork": true, "containers": [script("main", own)]});
        kubelet.create("host", &host);
        let owner = "touch /empty/f; stat -c %u:%g /empty/f /proc/1; tr -s ' ' </proc/self/uid_map; echo end; sleep 1000";
        let mut main = script("main", owner);
        main["volumeMounts"] = json!([{"name": "empty", "mountPath": "/empty"}]);
        let mapped = json!({
            "hostUsers": false,
            "containers": [main],
            "volumes": [{"name": "empty", "emptyDir": {}}],
        });
        kubelet.create("mapped", &mapped);
        let host = kubelet.wait_for_log("host", "main", "end\n");
        let mut command = kubelet.node.daemon.command("readlink");
        let network = tests::command::run(command.arg("/proc/self/ns/net")).ok();
        let mapped = kubelet.wait_for_log("mapped", "main", "end\n");
        let (owners, map) = mapped.split_at(mapped.find(" 0 ").unwrap_or(0));
        let ids: Vec<u64> = map
            .split_whitespace()
            .map_while(|id| id.parse().ok())
            .collect();
        assert!(host.starts_with(&network), "{host}");
        assert!(host.contains(" 0 0 4294967295"), "{host}");
        assert!(
            matches!(ids[..], [0, first, 65536] if first >= 65536),
            "{mapped}"
        );
        owners.to_owned()
    });
}
