//! What the API server gives pods by volumes and variables: settings, secrets, and tokens to call it with.

use serde_json::{Value, json};

use super::super::kubelet::script;
use super::same;

const TOKENS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[test]
fn settings_secrets_and_tokens_come_to_pods() {
    same(|cluster| {
        let data = |kind: &str, name: &str, data: Value| {
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
            let key = if kind == "Secret" {
                "stringData"
            } else {
                "data"
            };
            object[key] = data;
            object
        };
        cluster.apply(&data(
            "ConfigMap",
            "settings",
            json!({"color": "red", "file": "first\n"}),
        ));
        cluster.apply(&data("Secret", "secret", json!({"password": "hidden"})));
        let looks = format!(
            "echo $COLOR $PASSWORD $ALL_color; cat /settings/file /settings/renamed; echo; cat /part; \
             cat /secret/password; echo; touch /secret/new || echo refused; \
             df -P /secret | tail -n 1 | cut -d' ' -f1; \
             stat -L -c '%a %u %g' /secret/password /all/token; ls /all /all/inner; cat /all/inner/name; echo; \
             cat {TOKENS}/namespace; echo; ls {TOKENS}; tr -d -c . <{TOKENS}/token; echo; \
             head -n 1 {TOKENS}/ca.crt; cat /all/memory; echo; echo end; sleep 100000"
        );
        let mut main = script("main", &format!("exec 2>/dev/null; {looks}"));
        main["env"] = json!([
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
        ]);
        main["envFrom"] = json!([{"prefix": "ALL_", "configMapRef": {"name": "settings"}}]);
        main["resources"] = json!({"limits": {"memory": "64Mi"}});
        main["volumeMounts"] = json!([
            {"name": "settings", "mountPath": "/settings"},
            {"name": "settings", "mountPath": "/part", "subPath": "file"},
            {"name": "secret", "mountPath": "/secret"},
            {"name": "all", "mountPath": "/all"},
        ]);
        main["securityContext"] = json!({"runAsUser": 1000});
        cluster.pod(
            "web",
            &json!({
                "securityContext": {"fsGroup": 2000},
                "containers": [main],
                "volumes": [
                    {"name": "settings", "configMap": {"name": "settings", "items": [
                        {"key": "file", "path": "file"}, {"key": "color", "path": "renamed"},
                    ]}},
                    {"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o400}},
                    {"name": "all", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
                        {"downwardAPI": {"items": [
                            {"path": "inner/name", "fieldRef": {"fieldPath": "metadata.name"}},
                            {"path": "memory", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory"}},
                        ]}},
                        {"secret": {"name": "secret", "items": [{"key": "password", "path": "inner/password"}]}},
                    ]}},
                ],
            }),
        );
        let log = cluster.wait_for_log("web", "main", "end\n");

        // The API server knows the pod by the token that is in it.
        let token = cluster.ok(&["exec", "web", "--", "cat", &format!("{TOKENS}/token")]);
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let review = cluster.run_with(
            &["create", "-o", "json", "-f", "-"],
            review.to_string().as_bytes(),
        );
        let review: Value = serde_json::from_str(&review.ok()).expect("JSON");
        let user = &review["status"]["user"];
        let user = json!([
            user["username"],
            user["extra"]["authentication.kubernetes.io/pod-name"]
        ]);

        // What is changed comes to the volume, and to a part of it that is mounted by itself never.
        cluster.apply(&data(
            "ConfigMap",
            "settings",
            json!({"color": "blue", "file": "second\n"}),
        ));
        let changed = cluster.wait("the new settings come", || {
            let said = cluster.ok(&[
                "exec",
                "web",
                "--",
                "cat",
                "/settings/file",
                "/settings/renamed",
                "/part",
            ]);
            said.starts_with("second").then_some(said)
        });
        (log, user, changed)
    });
}
