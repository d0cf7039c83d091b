//! The Node Resource Interface: what plugins are told, what they have changed, and who is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_protos::nri::pkg::api::v1alpha1::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, Event, Hook, Hooks, KeyValue, LinuxContainerAdjustment,
    LinuxContainerUpdate, LinuxCpu, LinuxDevice, LinuxMemory, LinuxResources, Mount, OptionalInt64,
    OptionalUInt64, PosixRlimit, StopContainerResponse, SynchronizeResponse,
    UpdateContainerResponse, ValidateContainerAdjustmentResponse,
};
use serde_json::{Value, json};
use tests::nri::{Plugin, Script};
use tests::{Engine, binaries, eventually};

use super::node::{Node, Programs};
use super::pods::same;

const MIB: i64 = 1 << 20;

fn adjust(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse {
        adjust: Some(adjust),
        ..CreateContainerResponse::default()
    }
}

fn variable(key: &str, value: &str) -> KeyValue {
    let (key, value) = (key.to_owned(), value.to_owned());
    KeyValue { key, value }
}

fn shares(value: u64) -> LinuxResources {
    let shares = Some(OptionalUInt64 { value });
    LinuxResources {
        cpu: Some(LinuxCpu {
            shares,
            ..LinuxCpu::default()
        }),
        ..LinuxResources::default()
    }
}

fn update(id: &str, resources: LinuxResources) -> ContainerUpdate {
    ContainerUpdate {
        container_id: id.into(),
        linux: Some(LinuxContainerUpdate {
            resources: Some(resources),
        }),
        ignore_failure: false,
    }
}

/// Returns the processor shares that a container has, in its specification.
fn shares_of(node: &Node, id: &str) -> Value {
    node.inspect(id, "/info/runtimeSpec/linux/resources/cpu/shares")
}

#[test]
fn plugins_are_told_of_all_that_happens_to_pods_and_containers() {
    same(|node| {
        let plugin = Plugin::connect(&node.nri(), "10", "listener", Script::default());
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "sleep 1000");
        node.ok(&["update", "--cpu-share", "512", &id]);
        node.ok(&["stop", &id]);
        node.ok(&["rm", &id]);
        let short = node.script(&pod, "short", "exit 3");
        node.wait_for(&short, "CONTAINER_EXITED");
        plugin.wait_for(Event::StopContainer, "short");
        let never = node.container(&pod, "never", &json!({"command": ["true"]}));
        node.ok(&["rm", &never]);
        node.ok(&["stopp", &pod.0]);
        node.ok(&["stopp", &pod.0]);
        node.ok(&["rmp", &pod.0]);
        plugin.wait_for(Event::RemovePodSandbox, "web");
        node.daemon.assert_nothing_left();
        plugin.told()
    });
}

#[test]
fn a_container_is_made_as_plugins_want_it() {
    same(|node| {
        let folder = node.daemon.folder().to_owned();
        let hook = folder.join("hook");
        let ran = folder.join("ran");
        let script = format!(
            "#!/bin/sh\ncat >/dev/null\necho hooked >{}\n",
            ran.display()
        );
        fs::write(&hook, script).expect("write a hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("make it a program");
        fs::write(folder.join("given"), "given\n").expect("write a file");
        let text = json!({
            "cdiVersion": "0.5.0",
            "kind": "vendor.com/class",
            "devices": [{"name": "d", "containerEdits": {"env": ["CDI=1"]}}],
        });
        node.write_devices("cdi/vendor.json", &text.to_string());
        let seen: Arc<Mutex<Option<Container>>> = Arc::default();
        let noted = seen.clone();
        let create = move |request: CreateContainerRequest| {
            *noted.lock().expect("not poisoned") = request.container;
            Ok(adjust(ContainerAdjustment {
                annotations: [("nri".to_owned(), "was here".to_owned())].into(),
                env: vec![variable("NEW", "1"), variable("SET", "2")],
                mounts: vec![Mount {
                    destination: "/given".into(),
                    r#type: "bind".into(),
                    source: folder.join("given").display().to_string(),
                    options: vec!["bind".into(), "ro".into()],
                }],
                hooks: Some(Hooks {
                    create_runtime: vec![Hook {
                        path: folder.join("hook").display().to_string(),
                        ..Hook::default()
                    }],
                    ..Hooks::default()
                }),
                rlimits: vec![PosixRlimit {
                    r#type: "RLIMIT_NOFILE".into(),
                    hard: 1234,
                    soft: 123,
                }],
                cdi_devices: vec![api_protos::nri::pkg::api::v1alpha1::CdiDevice {
                    name: "vendor.com/class=d".into(),
                }],
                linux: Some(LinuxContainerAdjustment {
                    devices: vec![LinuxDevice {
                        path: "/dev/sink".into(),
                        r#type: "c".into(),
                        major: 1,
                        minor: 3,
                        ..LinuxDevice::default()
                    }],
                    resources: Some(LinuxResources {
                        memory: Some(LinuxMemory {
                            limit: Some(OptionalInt64 { value: 64 * MIB }),
                            ..LinuxMemory::default()
                        }),
                        ..shares(333)
                    }),
                    ..LinuxContainerAdjustment::default()
                }),
                ..ContainerAdjustment::default()
            }))
        };
        let script = Script {
            create: Box::new(create),
            ..Script::default()
        };
        let _plugin = Plugin::connect(&node.nri(), "10", "changer", script);
        let pod = node.pod("web", &json!({}));
        let show = "echo $NEW-$SET-$CDI; cat /given; echo x >/dev/sink && echo sunk; \
                    ulimit -Sn; ulimit -Hn; sleep 1000";
        let more = json!({
            "command": ["sh", "-c", show],
            "envs": [{"key": "SET", "value": "1"}],
            "labels": {"of": "container"},
            "annotations": {"its": "own"},
        });
        let id = node.container(&pod, "main", &more);
        node.ok(&["start", &id]);
        let said = eventually("it has said all", Duration::from_secs(20), || {
            let said = node.ok(&["logs", &id]);
            (said.lines().count() == 5).then_some(said)
        });
        assert_eq!(said, "1-2-1\ngiven\nsunk\n123\n1234");
        let spec = "/info/runtimeSpec";
        let of_spec = [
            "annotations/nri",
            "linux/resources/memory/limit",
            "linux/resources/cpu/shares",
        ];
        let of_spec = of_spec.map(|path| node.inspect(&id, &format!("{spec}/{path}")));
        let hooked = fs::read_to_string(&ran).unwrap_or_default();
        let seen = seen
            .lock()
            .expect("not poisoned")
            .clone()
            .expect("it was asked");
        let env: Vec<String> = seen
            .env
            .iter()
            .filter(|one| !one.starts_with("HOSTNAME"))
            .cloned()
            .collect();
        let linux = seen.linux.unwrap_or_default();
        let mut kinds: Vec<String> = linux.namespaces.into_iter().map(|one| one.r#type).collect();
        kinds.sort();
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        (
            (said, of_spec, hooked),
            (
                seen.name,
                seen.args,
                env,
                kinds,
                seen.labels.get("of").cloned(),
            ),
            (
                seen.id == id,
                seen.pod_sandbox_id == pod.0,
                seen.annotations.get("its").cloned(),
            ),
        )
    });
}

#[test]
fn of_two_plugins_that_want_the_same_the_second_is_refused() {
    same(|node| {
        let sets = |value: &'static str, marked: bool| Script {
            create: Box::new(move |_| {
                let mut env = vec![variable("WHO", value)];
                if marked {
                    env.insert(0, variable("-WHO", ""));
                }
                let env = ContainerAdjustment {
                    env,
                    ..ContainerAdjustment::default()
                };
                Ok(adjust(env))
            }),
            ..Script::default()
        };
        let pod = node.pod("web", &json!({}));
        let _first = Plugin::connect(&node.nri(), "10", "first", sets("first", false));
        let second = Plugin::connect(&node.nri(), "20", "second", sets("second", false));
        let config = json!({
            "metadata": {"name": "main", "attempt": 1},
            "image": {"image": node.image},
            "command": ["true"],
        });
        let path = node.file("main.json", &config);
        let refused = node.run(&["create", &pod.0, &path, &pod.1]);
        assert_ne!(refused.code, Some(0));
        for part in ["20-second", "10-first", "both tried to set"] {
            assert!(refused.stderr.contains(part), "{refused:?}");
        }
        assert_eq!(node.ok(&["ps", "-a", "-q"]), "");
        drop(second);
        let _third = Plugin::connect(&node.nri(), "30", "third", sets("third", true));
        let id = node.script(&pod, "main", "echo $WHO");
        node.wait_for(&id, "CONTAINER_EXITED");
        let said = node.ok(&["logs", &id]);
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        said
    });
}

#[test]
fn plugins_update_containers_when_they_are_asked_and_when_they_are_not() {
    same(|node| {
        let pod = node.pod("web", &json!({}));
        let other = node.script(&pod, "other", "sleep 1000");
        let of_other = other.clone();
        let script = Script {
            // Of what was asked for it makes twice as much.
            update: Box::new(|request| {
                let asked = request
                    .linux_resources
                    .unwrap_or_default()
                    .cpu
                    .unwrap_or_default();
                let twice = asked.shares.unwrap_or_default().value * 2;
                let id = request.container.unwrap_or_default().id;
                Ok(UpdateContainerResponse {
                    update: vec![update(&id, shares(twice))],
                    ..UpdateContainerResponse::default()
                })
            }),
            stop: Box::new(move |_| {
                Ok(StopContainerResponse {
                    update: vec![update(&of_other, shares(222))],
                })
            }),
            ..Script::default()
        };
        let plugin = Plugin::connect(&node.nri(), "10", "updater", script);
        let id = node.script(&pod, "main", "sleep 1000");
        node.ok(&["update", "--cpu-share", "400", &id]);
        let asked = shares_of(node, &id);
        let updated = plugin.update(vec![update(&id, shares(600))], Vec::new());
        updated.expect("update a container");
        let unasked = shares_of(node, &id);
        node.ok(&["stop", &id]);
        eventually("the other is updated", Duration::from_secs(10), || {
            (shares_of(node, &other) == 222).then_some(())
        });
        node.ok(&["rmp", "-f", &pod.0]);
        node.daemon.assert_nothing_left();
        (asked, unasked)
    });
}

#[test]
fn a_plugin_that_comes_later_is_told_what_there_is() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        let mut node = Node::start(engine, &programs);
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "sleep 1000");
        let ended = node.script(&pod, "ended", "true");
        node.wait_for(&ended, "CONTAINER_EXITED");
        node.daemon.kill();
        node.daemon.restart();
        node.wait_for(&id, "CONTAINER_RUNNING");
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = seen.clone();
        let of_main = id.clone();
        let script = Script {
            synchronize: Box::new(move |request| {
                let mut noted = noted.lock().expect("not poisoned");
                noted.extend(request.pods.into_iter().map(|pod| pod.name));
                noted.extend(
                    request
                        .containers
                        .into_iter()
                        .map(|container| container.name),
                );
                Ok(SynchronizeResponse {
                    update: vec![update(&of_main, shares(444))],
                    ..SynchronizeResponse::default()
                })
            }),
            ..Script::default()
        };
        let plugin = Plugin::connect(&node.nri(), "10", "late", script);
        assert_eq!(*seen.lock().expect("not poisoned"), ["web", "main"]);
        eventually("what it wants is done", Duration::from_secs(10), || {
            (shares_of(&node, &id) == 444).then_some(())
        });
        node.ok(&["rmp", "-f", &pod.0]);
        plugin.wait_for(Event::RemoveContainer, "main");
        node.daemon.assert_nothing_left();
    }
}

#[test]
fn a_plugin_that_does_not_answer_is_let_go() {
    same(|node| {
        let script = Script {
            create: Box::new(|_| {
                std::thread::sleep(Duration::from_secs(4));
                Ok(CreateContainerResponse::default())
            }),
            ..Script::default()
        };
        let silent = Plugin::connect(&node.nri(), "10", "silent", script);
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "sleep 1000");
        let later = node.script(&pod, "later", "sleep 1000");
        node.ok(&["rm", "-f", &id, &later]);
        node.ok(&["rmp", "-f", &pod.0]);
        let events = silent.told().into_iter();
        events.map(|told| told.event).collect::<Vec<Event>>()
    });
}

#[test]
fn a_plugin_can_refuse_a_pod_and_a_container() {
    same(|node| {
        let refuse = |what: &'static str| sys::Error::new(sys::Kind::Unknown, what);
        let script = Script {
            tell: Box::new(move |told| match (told.event, told.pod.as_str()) {
                (Event::RunPodSandbox, "bad") => Err(refuse("no such pod here")),
                (Event::StartContainer, _) if told.container == "bad" => {
                    Err(refuse("not to be started"))
                }
                _ => Ok(()),
            }),
            create: Box::new(move |request| {
                match request.container.unwrap_or_default().name.as_str() {
                    "worse" => Err(refuse("not to be created")),
                    _ => Ok(CreateContainerResponse::default()),
                }
            }),
            ..Script::default()
        };
        let plugin = Plugin::connect(&node.nri(), "10", "judge", script);
        let config = json!({
            "metadata": {"name": "bad", "namespace": "ns", "uid": "u", "attempt": 1},
            "linux": {"cgroup_parent": format!("/{}", node.daemon.namespace)},
        });
        let bad = node.run(&["runp", &node.file("bad.json", &config)]);
        assert!(bad.stderr.contains("no such pod here"), "{bad:?}");
        assert_eq!(node.ok(&["pods", "-q"]), "");
        let pod = node.pod("good", &json!({}));
        let config = json!({
            "metadata": {"name": "worse"}, "image": {"image": node.image}, "command": ["true"],
        });
        let worse = node.run(&["create", &pod.0, &node.file("worse.json", &config), &pod.1]);
        assert!(worse.stderr.contains("not to be created"), "{worse:?}");
        let id = node.container(&pod, "bad", &json!({"command": ["sleep", "1000"]}));
        let started = node.run(&["start", &id]);
        assert!(started.stderr.contains("not to be started"), "{started:?}");
        node.wait_for(&id, "CONTAINER_EXITED");
        node.ok(&["rmp", "-f", &pod.0]);
        // Upstream leaves the sandbox of the pod that was refused.
        if node.daemon.engine == Engine::Corten {
            node.daemon.assert_nothing_left();
        }
        let of = |name: &str| {
            let told = plugin.told().into_iter();
            let of_name = told.filter(|told| {
                told.container == name || told.container.is_empty() && told.pod == name
            });
            of_name.map(|told| told.event).collect::<Vec<Event>>()
        };
        of("worse")
    });
}

/// Upstream's version here knows neither judges nor evictions.
#[test]
fn plugins_judge_what_others_want_and_evict() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    let node = Node::start(Engine::Corten, &programs);
    let changes = Script {
        create: Box::new(|_| {
            let env = ContainerAdjustment {
                env: vec![variable("A", "1")],
                ..ContainerAdjustment::default()
            };
            Ok(adjust(env))
        }),
        ..Script::default()
    };
    let changer = Plugin::connect(&node.nri(), "10", "changer", changes);
    let judged = Arc::new(Mutex::new(Vec::new()));
    let noted = judged.clone();
    let judge = Script {
        events: 1 << (Event::ValidateContainerAdjustment as i32 - 1),
        validate: Box::new(move |request| {
            let container = request.container.unwrap_or_default();
            let env = request.adjust.unwrap_or_default().env;
            let plugins = request
                .plugins
                .into_iter()
                .map(|one| one.name)
                .collect::<Vec<String>>();
            let reject = container.name == "refused";
            noted.lock().expect("not poisoned").push((env, plugins));
            Ok(ValidateContainerAdjustmentResponse {
                reject,
                reason: "it is not wanted".into(),
            })
        }),
        ..Script::default()
    };
    let _judge = Plugin::connect(&node.nri(), "20", "judge", judge);
    let pod = node.pod("web", &json!({}));
    let id = node.script(&pod, "main", "sleep 1000");
    let wanted = (
        vec![variable("A", "1")],
        vec!["changer".to_owned(), "judge".to_owned()],
    );
    assert_eq!(*judged.lock().expect("not poisoned"), [wanted]);
    let config = json!({
        "metadata": {"name": "refused"}, "image": {"image": node.image}, "command": ["true"],
    });
    let refused = node.run(&[
        "create",
        &pod.0,
        &node.file("refused.json", &config),
        &pod.1,
    ]);
    let said = "20-judge rejected container adjustment, reason: it is not wanted";
    assert!(refused.stderr.contains(said), "{refused:?}");

    let eviction = ContainerEviction {
        container_id: id.clone(),
        reason: "room is needed".into(),
    };
    changer
        .update(Vec::new(), vec![eviction])
        .expect("evict a container");
    node.wait_for(&id, "CONTAINER_EXITED");
    let missing = changer.update(vec![update("none", shares(5))], Vec::new());
    missing.expect("what is not there needs no update");
    node.ok(&["rmp", "-f", &pod.0]);
    node.daemon.assert_nothing_left();
}

#[test]
fn installed_plugins_are_started_and_configured() {
    let Some(programs) = Programs::or_skip() else {
        return;
    };
    for engine in [Engine::Containerd2, Engine::Corten] {
        let fixture = binaries::find("fixture").expect("it is built");
        let node = Node::start_prepared(engine, &programs, "", |folder| {
            let [plugins, settings] = ["nri", "nri.d"].map(|name| folder.join(name));
            for folder in [&plugins, &settings] {
                fs::create_dir(folder).expect("make a folder");
            }
            // The fixture has its connection as standard input, whatever number the daemon has given it.
            let script = format!(
                "#!/bin/sh\nexec {} nri <&$NRI_PLUGIN_SOCKET\n",
                fixture.display()
            );
            let program = plugins.join("30-installed");
            fs::write(&program, script).expect("write a program");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("allow it");
            fs::write(settings.join("installed.conf"), "value").expect("write its settings");
        });
        let pod = node.pod("web", &json!({}));
        let id = node.script(&pod, "main", "echo $CONFIGURED");
        node.wait_for(&id, "CONTAINER_EXITED");
        assert_eq!(node.ok(&["logs", &id]), "installed-value", "{engine:?}");
        node.ok(&["rmp", "-f", &pod.0]);
    }
}
