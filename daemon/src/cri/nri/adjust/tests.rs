use api_protos::nri::pkg::api::v1alpha1::{
    Hooks, KeyValue, LinuxCpu, LinuxMemory, LinuxNamespace, LinuxNetDevice, LinuxPids, Mount,
    OptionalFileMode, OptionalInt, OptionalInt64, OptionalString, OptionalUInt32, OptionalUInt64,
    PosixRlimit,
};

use super::*;

fn spec() -> Value {
    json!({
        "annotations": {"keep": "1", "drop": "2"},
        "process": {"args": ["sh"], "env": ["PATH=/bin", "OLD=1", "SET=0"]},
        "mounts": [{"destination": "/proc"}, {"destination": "/a/b"}, {"destination": "/old"}],
        "linux": {
            "namespaces": [{"type": "pid", "path": "/p"}, {"type": "ipc", "path": "/i"}],
            "devices": [{"path": "/dev/old"}],
            "resources": {"devices": [{"allow": false}], "cpu": {"shares": 1}},
        },
    })
}

fn variable(key: &str, value: &str) -> KeyValue {
    let (key, value) = (key.to_owned(), value.to_owned());
    KeyValue { key, value }
}

fn adjusted(wanted: &ContainerAdjustment) -> Value {
    let mut spec = spec();
    process(wanted, &mut spec);
    rest(wanted, &mut spec, true).unwrap();
    spec
}

#[test]
fn what_is_run_is_changed() {
    let texts = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let hook = Hook {
        path: "/h".into(),
        args: vec!["h".into()],
        timeout: Some(OptionalInt { value: 3 }),
        ..Hook::default()
    };
    let wanted = ContainerAdjustment {
        annotations: texts(&[("-drop", ""), ("-keep", ""), ("keep", "3"), ("new", "4")]),
        env: vec![
            variable("-OLD", ""),
            variable("-SET", ""),
            variable("SET", "1"),
            variable("NEW", "2"),
        ],
        args: vec!["ls".into()],
        hooks: Some(Hooks {
            create_runtime: vec![hook],
            ..Hooks::default()
        }),
        rlimits: vec![PosixRlimit {
            r#type: "RLIMIT_CORE".into(),
            hard: 2,
            soft: 1,
        }],
        ..ContainerAdjustment::default()
    };
    let spec = adjusted(&wanted);
    assert_eq!(spec["annotations"], json!({"keep": "3", "new": "4"}));
    assert_eq!(
        spec["process"]["env"],
        json!(["PATH=/bin", "SET=1", "NEW=2"])
    );
    assert_eq!(spec["process"]["args"], json!(["ls"]));
    let hooks = json!({"createRuntime": [{"path": "/h", "args": ["h"], "timeout": 3}]});
    assert_eq!(spec["hooks"], hooks);
    let limits = json!([{"type": "RLIMIT_CORE", "hard": 2, "soft": 1}]);
    assert_eq!(spec["process"]["rlimits"], limits);
}

#[test]
fn nothing_is_changed_where_nothing_is_wanted() {
    let nothing = ContainerAdjustment {
        linux: Some(LinuxContainerAdjustment::default()),
        ..ContainerAdjustment::default()
    };
    assert_eq!(adjusted(&nothing), spec());
}

#[test]
fn mounts_are_in_the_order_of_their_depth() {
    let mount = |destination: &str, options: &[&str]| Mount {
        destination: destination.into(),
        r#type: "bind".into(),
        source: "/s".into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let wanted = ContainerAdjustment {
        mounts: vec![mount("-/old", &[]), mount("/a", &["rbind", "rslave"])],
        ..ContainerAdjustment::default()
    };
    let spec = adjusted(&wanted);
    let mounts = spec["mounts"].as_array().unwrap().iter();
    let places: Vec<&str> = mounts
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/proc", "/a", "/a/b"]);
    assert_eq!(spec["linux"]["rootfsPropagation"], "rslave");
}

#[test]
fn devices_namespaces_and_limits_are_changed() {
    let device = LinuxDevice {
        path: "/dev/new".into(),
        r#type: "c".into(),
        major: 1,
        minor: 3,
        file_mode: Some(OptionalFileMode { value: 0o600 }),
        uid: Some(OptionalUInt32 { value: 0 }),
        gid: None,
    };
    let old = LinuxDevice {
        path: "-/dev/old".into(),
        ..LinuxDevice::default()
    };
    let namespace = |kind: &str| LinuxNamespace {
        r#type: kind.into(),
        path: String::new(),
    };
    let wanted = ContainerAdjustment {
        linux: Some(LinuxContainerAdjustment {
            devices: vec![old, device],
            namespaces: vec![namespace("-ipc"), namespace("pid")],
            sysctl: [("net.x".to_owned(), "1".to_owned())].into(),
            net_devices: [("eth7".to_owned(), LinuxNetDevice { name: "n".into() })].into(),
            oom_score_adj: Some(OptionalInt { value: 7 }),
            resources: Some(LinuxResources {
                memory: Some(LinuxMemory {
                    limit: Some(OptionalInt64 { value: 5 }),
                    ..LinuxMemory::default()
                }),
                cpu: Some(LinuxCpu {
                    quota: Some(OptionalInt64 { value: 6 }),
                    period: Some(OptionalUInt64 { value: 8 }),
                    ..LinuxCpu::default()
                }),
                pids: Some(LinuxPids { limit: 9 }),
                unified: [("a.b".to_owned(), "c".to_owned())].into(),
                ..LinuxResources::default()
            }),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    let spec = adjusted(&wanted);
    let linux = &spec["linux"];
    let device = json!({
        "path": "/dev/new", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 0,
    });
    assert_eq!(linux["devices"], json!([device]));
    assert_eq!(linux["namespaces"], json!([{"type": "pid"}]));
    assert_eq!(linux["sysctl"], json!({"net.x": "1"}));
    assert_eq!(linux["netDevices"], json!({"eth7": {"name": "n"}}));
    assert_eq!(spec["process"]["oomScoreAdj"], 7);
    assert_eq!(
        linux["resources"],
        json!({
            "devices": [
                {"allow": false},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            ],
            "cpu": {"shares": 1, "quota": 6, "period": 8},
            "memory": {"limit": 5, "swap": 5},
            "pids": {"limit": 9},
            "unified": {"a.b": "c"},
        })
    );
}

#[test]
fn a_block_io_class_cannot_be_had() {
    let class = |value: &str| ContainerAdjustment {
        linux: Some(LinuxContainerAdjustment {
            resources: Some(LinuxResources {
                blockio_class: Some(OptionalString {
                    value: value.into(),
                }),
                ..LinuxResources::default()
            }),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    };
    let refused = rest(&class("fast"), &mut spec(), true).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unimplemented);
    rest(&class(""), &mut spec(), true).unwrap();
}
