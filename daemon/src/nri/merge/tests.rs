use api_protos::nri::pkg::api::v1alpha1::{
    CdiDevice, Hook, LinuxCpu, LinuxDevice, LinuxMemory, LinuxNamespace, Mount, OptionalInt64,
    OptionalUInt64, PosixRlimit,
};

use super::*;

fn created() -> Creation {
    Creation::new(Container {
        id: "new".into(),
        env: vec!["PATH=/bin".into(), "OLD=1".into()],
        args: vec!["sh".into()],
        annotations: [("given".to_owned(), "1".to_owned())].into(),
        mounts: vec![mount("/old", "/a")],
        ..Container::default()
    })
}

fn mount(destination: &str, source: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: source.into(),
        ..Mount::default()
    }
}

fn variable(key: &str, value: &str) -> Variable {
    let (key, value) = (key.to_owned(), value.to_owned());
    Variable { key, value }
}

fn answer(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse {
        adjust: Some(adjust),
        ..CreateContainerResponse::default()
    }
}

fn memory(limit: i64) -> LinuxResources {
    let limit = Some(OptionalInt64 { value: limit });
    LinuxResources {
        memory: Some(LinuxMemory {
            limit,
            ..LinuxMemory::default()
        }),
        ..LinuxResources::default()
    }
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

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let resources = Some(resources);
    ContainerUpdate {
        container_id: id.into(),
        linux: Some(LinuxContainerUpdate { resources }),
        ignore_failure,
    }
}

#[test]
fn each_plugin_sees_what_those_before_it_want() {
    let mut creation = created();
    let first = ContainerAdjustment {
        env: vec![variable("A", "1"), variable("-OLD", "")],
        mounts: vec![mount("/old", "/b"), mount("/new", "/c")],
        annotations: [("a".to_owned(), "x".to_owned())].into(),
        args: vec!["ls".into()],
        linux: Some(LinuxContainerAdjustment {
            resources: Some(memory(5)),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    creation.apply(answer(first), "00-a").unwrap();
    let seen = &creation.container;
    assert_eq!(seen.env, ["PATH=/bin", "A=1"]);
    assert_eq!(seen.args, ["ls"]);
    assert_eq!(seen.mounts, [mount("/old", "/b"), mount("/new", "/c")]);
    assert_eq!(seen.annotations["a"], "x");
    let linux = seen.linux.clone().unwrap();
    assert_eq!(linux.resources, Some(memory(5)));

    let second = ContainerAdjustment {
        env: vec![variable("B", "2")],
        linux: Some(LinuxContainerAdjustment {
            resources: Some(shares(7)),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    creation.apply(answer(second), "10-b").unwrap();
    let (adjust, changes) = creation.finish();
    assert!(changes.is_empty());
    let wanted = [variable("-OLD", ""), variable("A", "1"), variable("B", "2")];
    let mut env = adjust.env.clone();
    env.sort_by_key(|variable| variable.key.clone());
    assert_eq!(env, wanted);
    let resources = adjust.linux.unwrap().resources.unwrap();
    assert_eq!(
        (resources.memory, resources.cpu),
        (memory(5).memory, shares(7).cpu)
    );
}

#[test]
fn what_one_wants_another_may_not_unless_it_removes_it_first() {
    let wanted: [(&str, ContainerAdjustment); 8] = [
        (
            "Env A",
            ContainerAdjustment {
                env: vec![variable("A", "1")],
                ..ContainerAdjustment::default()
            },
        ),
        (
            "Args",
            ContainerAdjustment {
                args: vec!["x".into()],
                ..ContainerAdjustment::default()
            },
        ),
        (
            "Mounts /m",
            ContainerAdjustment {
                mounts: vec![mount("/m", "/s")],
                ..ContainerAdjustment::default()
            },
        ),
        (
            "Annotations k",
            ContainerAdjustment {
                annotations: [("k".to_owned(), "v".to_owned())].into(),
                ..ContainerAdjustment::default()
            },
        ),
        (
            "CdiDevices v.com/c=d",
            ContainerAdjustment {
                cdi_devices: vec![CdiDevice {
                    name: "v.com/c=d".into(),
                }],
                ..ContainerAdjustment::default()
            },
        ),
        (
            "Rlimits RLIMIT_CORE",
            ContainerAdjustment {
                rlimits: vec![PosixRlimit {
                    r#type: "RLIMIT_CORE".into(),
                    ..PosixRlimit::default()
                }],
                ..ContainerAdjustment::default()
            },
        ),
        (
            "Devices /dev/d",
            ContainerAdjustment {
                linux: Some(LinuxContainerAdjustment {
                    devices: vec![LinuxDevice {
                        path: "/dev/d".into(),
                        ..LinuxDevice::default()
                    }],
                    ..LinuxContainerAdjustment::default()
                }),
                ..ContainerAdjustment::default()
            },
        ),
        (
            "MemLimit",
            ContainerAdjustment {
                linux: Some(LinuxContainerAdjustment {
                    resources: Some(memory(1)),
                    ..LinuxContainerAdjustment::default()
                }),
                ..ContainerAdjustment::default()
            },
        ),
    ];
    for (what, adjust) in wanted {
        let mut creation = created();
        creation.apply(answer(adjust.clone()), "00-a").unwrap();
        let refused = creation.apply(answer(adjust), "10-b").unwrap_err();
        let wanted = format!("plugins \"10-b\" and \"00-a\" both tried to set {what}");
        assert_eq!(refused.to_string(), wanted);
    }

    let mut creation = created();
    let set = |marked: bool, value: &str| {
        let mut env = vec![variable("A", value)];
        let mut args = vec![value.to_owned()];
        if marked {
            env.insert(0, variable("-A", ""));
            args.insert(0, String::new());
        }
        answer(ContainerAdjustment {
            env,
            args,
            ..ContainerAdjustment::default()
        })
    };
    creation.apply(set(false, "1"), "00-a").unwrap();
    creation.apply(set(true, "2"), "10-b").unwrap();
    let (adjust, _) = creation.finish();
    assert_eq!(adjust.env, [variable("A", "2")]);
    assert_eq!(adjust.args, ["2"]);
}

#[test]
fn hooks_of_all_are_run() {
    let mut creation = created();
    for (plugin, path) in [("00-a", "/one"), ("10-b", "/two")] {
        let hook = Hook {
            path: path.into(),
            ..Hook::default()
        };
        let hooks = Some(Hooks {
            create_runtime: vec![hook],
            ..Hooks::default()
        });
        let adjust = ContainerAdjustment {
            hooks,
            ..ContainerAdjustment::default()
        };
        creation.apply(answer(adjust), plugin).unwrap();
    }
    let (adjust, _) = creation.finish();
    let hooks = adjust.hooks.unwrap().create_runtime;
    let paths: Vec<&str> = hooks.iter().map(|hook| hook.path.as_str()).collect();
    assert_eq!(paths, ["/one", "/two"]);
}

#[test]
fn namespaces_are_replaced_and_removed() {
    let mut creation = created();
    let namespace = |kind: &str| LinuxNamespace {
        r#type: kind.into(),
        ..LinuxNamespace::default()
    };
    creation.container.linux = Some(LinuxContainer {
        namespaces: vec![namespace("pid"), namespace("ipc")],
        ..LinuxContainer::default()
    });
    let adjust = ContainerAdjustment {
        linux: Some(LinuxContainerAdjustment {
            namespaces: vec![namespace("-pid"), namespace("time")],
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    creation.apply(answer(adjust.clone()), "00-a").unwrap();
    let seen = creation.container.linux.clone().unwrap().namespaces;
    assert_eq!(seen, [namespace("ipc"), namespace("time")]);
    assert!(creation.apply(answer(adjust), "10-b").is_err());
}

#[test]
fn updates_of_others_are_collected() {
    let mut creation = created();
    let wants = |updates: Vec<ContainerUpdate>| CreateContainerResponse {
        update: updates,
        ..CreateContainerResponse::default()
    };
    let own = creation.apply(wants(vec![update("new", shares(1), true)]), "00-a");
    assert!(own.unwrap_err().to_string().contains("during creation"));
    creation
        .apply(wants(vec![update("x", shares(1), true)]), "00-a")
        .unwrap();
    let more = vec![update("y", memory(2), false), update("x", memory(3), false)];
    creation.apply(wants(more), "10-b").unwrap();
    // What is refused and may fail is left out, the rest stays.
    let again = vec![update("x", shares(9), true)];
    creation.apply(wants(again), "20-c").unwrap();
    let must = vec![update("x", shares(9), false)];
    assert!(creation.apply(wants(must), "20-c").is_err());
    let (_, changes) = creation.finish();
    let both = LinuxResources {
        memory: memory(3).memory,
        ..shares(1)
    };
    let wanted = [update("x", both, false), update("y", memory(2), false)];
    assert_eq!(changes.updates, wanted);
}

#[test]
fn an_update_is_what_plugins_make_of_it() {
    let untouched = Update::new("c".into(), memory(1));
    assert_eq!(untouched.finish(), (None, Changes::default()));

    let mut changed = Update::new("c".into(), memory(1));
    let updates = vec![update("c", shares(5), false), update("x", shares(6), false)];
    changed.apply(updates, Vec::new(), "00-a").unwrap();
    let wanted = LinuxResources {
        cpu: shares(5).cpu,
        ..memory(1)
    };
    assert_eq!(*changed.resources(), wanted);
    let refused = vec![update("c", shares(7), true)];
    changed.apply(refused, Vec::new(), "10-b").unwrap();
    let (own, changes) = changed.finish();
    assert_eq!(own, Some(wanted));
    assert_eq!(changes.updates, [update("x", shares(6), false)]);
}
