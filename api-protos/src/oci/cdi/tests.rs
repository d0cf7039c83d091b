use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::file::File;
use super::*;

/// Folders with files of these names and texts, in the order of their priority.
struct Folders {
    root: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Folders {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths = ["static", "dynamic"].map(|name| root.path().join(name));
        for path in &paths {
            fs::create_dir(path).unwrap();
        }
        for (name, text) in files {
            fs::write(root.path().join(name), text).unwrap();
        }
        let paths = paths.to_vec();
        Self { root, paths }
    }

    fn registry(&self) -> Registry {
        Registry::read(&self.paths)
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }
}

/// Returns the text of a file with one device `d`.
fn one(version: &str, edits: Value) -> String {
    let device = json!({"name": "d", "containerEdits": edits});
    json!({"cdiVersion": version, "kind": "vendor.com/class", "devices": [device]}).to_string()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const YAML: &str = "\
cdiVersion: 0.7.0
kind: vendor.com/class
containerEdits:
  env: [ALL=1]
devices:
- name: a
  containerEdits:
    env: [A=1, PATH=/a]
    deviceNodes:
    - path: /dev/a
      hostPath: /dev/null
      permissions: rw
      fileMode: 0640
      uid:
    additionalGids: [0, 7, 8]
- name: b
  containerEdits:
    deviceNodes:
    - {path: /dev/b, type: c, major: 300, minor: 2, permissions: none}
    mounts:
    - {hostPath: /h, containerPath: /x/y, options: [ro, bind], type: bind}
    hooks:
    - {hookName: createRuntime, path: /h, args: [h, x], timeout: 3}
";

#[test]
fn a_container_gets_what_its_devices_need() {
    let folders = Folders::new(&[("static/v.yaml", YAML)]);
    let mut spec = json!({
        "process": {"env": ["PATH=/b", "X=1"], "user": {"uid": 5, "gid": 0, "additionalGids": [7]}},
        "mounts": [{"destination": "/x/y/z"}, {"destination": "/x/y"}, {"destination": "/proc"}],
        "linux": {"devices": [{"path": "/dev/a", "type": "b"}], "resources": {"devices": [{"allow": false}]}},
    });
    let asked = names(&[
        "vendor.com/class=a",
        "vendor.com/class=b",
        "vendor.com/class=a",
    ]);
    folders.registry().inject(&mut spec, &asked).unwrap();
    assert_eq!(
        spec,
        json!({
            "process": {
                "env": ["PATH=/a", "X=1", "ALL=1", "A=1"],
                "user": {"uid": 5, "gid": 0, "additionalGids": [7, 8]},
            },
            "mounts": [
                {"destination": "/proc"},
                {"source": "/h", "destination": "/x/y", "type": "bind", "options": ["ro", "bind"]},
                {"destination": "/x/y/z"},
            ],
            "hooks": {"createRuntime": [{"path": "/h", "args": ["h", "x"], "timeout": 3}]},
            "linux": {
                "devices": [
                    {"path": "/dev/a", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5},
                    {"path": "/dev/b", "type": "c", "major": 300, "minor": 2, "uid": 5},
                ],
                "resources": {"devices": [
                    {"allow": false},
                    {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
                    {"allow": true, "type": "c", "major": 300, "minor": 2, "access": ""},
                ]},
            },
        })
    );
}

#[test]
fn mounts_of_containers_with_a_user_namespace_are_mapped() {
    let mounts = json!([
        {"hostPath": "/a", "containerPath": "/a", "options": ["rbind"]},
        {"hostPath": "/b", "containerPath": "/b", "options": ["bind", "ridmap"]},
        {"hostPath": "/c", "containerPath": "/c", "options": ["ro"], "type": "tmpfs"},
    ]);
    let text = one("1.0.0", json!({"mounts": mounts}));
    let folders = Folders::new(&[("static/v.json", &text)]);
    let mut spec = json!({"linux": {"namespaces": [{"type": "user"}]}});
    let asked = names(&["vendor.com/class=d"]);
    folders.registry().inject(&mut spec, &asked).unwrap();
    let options = |at: usize| spec["mounts"][at]["options"].clone();
    assert_eq!(options(0), json!(["rbind", "ridmap"]));
    assert_eq!(options(1), json!(["bind", "ridmap"]));
    assert_eq!(options(2), json!(["ro"]));
}

#[test]
fn network_devices_and_cache_classes_are_passed_on() {
    let edits = json!({
        "netDevices": [{"hostInterfaceName": "eth7", "name": "net0"}],
        "intelRdt": {"closID": "fast", "schemata": ["L3:0=f"], "enableMonitoring": true},
    });
    let text = one("1.1.0", edits);
    let folders = Folders::new(&[("static/v.json", &text)]);
    let mut spec = json!({});
    let asked = names(&["vendor.com/class=d"]);
    folders.registry().inject(&mut spec, &asked).unwrap();
    assert_eq!(
        spec["linux"]["netDevices"],
        json!({"eth7": {"name": "net0"}})
    );
    let rdt = json!({"closID": "fast", "schemata": ["L3:0=f"], "enableMonitoring": true});
    assert_eq!(spec["linux"]["intelRdt"], rdt);
}

#[test]
fn the_later_folder_counts_and_two_files_of_one_cancel_each_other() {
    let with = |value: &str| one("0.3.0", json!({"env": [format!("FROM={value}")]}));
    let [first, second] = [with("1"), with("2")];
    let asked = names(&["vendor.com/class=d"]);
    let folders = Folders::new(&[("static/a.json", &first), ("dynamic/b.json", &second)]);
    let mut spec = json!({});
    folders.registry().inject(&mut spec, &asked).unwrap();
    assert_eq!(spec["process"]["env"], json!(["FROM=2"]));

    let folders = Folders::new(&[("static/a.json", &first), ("static/b.json", &second)]);
    let refused = folders.registry().inject(&mut spec, &asked).unwrap_err();
    let said = refused.to_string();
    for part in [
        "vendor.com/class=d",
        &folders.path("static/a.json"),
        &folders.path("static/b.json"),
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(folders.registry().problems().count(), 1);
}

#[test]
fn a_wrong_file_is_named_and_stands_in_nobody_elses_way() {
    let good = one("0.3.0", json!({"env": ["A=1"]}));
    let bad =
        json!({"cdiVersion": "0.3.0", "kind": "other.com/class", "devices": [], "devcies": 1});
    let folders = Folders::new(&[
        ("static/good.json", &good),
        ("static/bad.json", &bad.to_string()),
        ("static/other.txt", "not read"),
    ]);
    let mut spec = json!({});
    let registry = folders.registry();
    registry
        .inject(&mut spec, &names(&["vendor.com/class=d"]))
        .unwrap();
    let before = spec.clone();
    let asked = names(&["vendor.com/class=d", "other.com/class=x"]);
    let refused = registry.inject(&mut spec, &asked).unwrap_err();
    assert_eq!(spec, before);
    let said = refused.to_string();
    let wanted = "CDI device injection failed: unresolvable CDI devices other.com/class=x; ";
    assert!(said.starts_with(wanted), "{said}");
    assert!(said.contains(&folders.path("static/bad.json")), "{said}");
    assert!(said.contains("devcies"), "{said}");
}

#[test]
fn a_device_that_the_host_lacks_is_named() {
    let node = |more: Value| {
        let mut node = json!({"path": "/dev/there-is-none"});
        node.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        one("0.5.0", json!({"deviceNodes": [node]}))
    };
    for (more, works) in [
        (json!({}), false),
        (json!({"type": "c"}), false),
        (json!({"type": "c", "major": 9}), true),
        (json!({"type": "p"}), true),
        (json!({"hostPath": "/dev/null", "type": "b"}), false),
        (json!({"hostPath": "/dev/null", "type": "c"}), true),
        (json!({"hostPath": "/etc/hostname"}), false),
    ] {
        let folders = Folders::new(&[("static/v.json", &node(more.clone()))]);
        let asked = names(&["vendor.com/class=d"]);
        let injected = folders.registry().inject(&mut json!({}), &asked);
        assert_eq!(injected.is_ok(), works, "{more}: {injected:?}");
        if let Err(error) = injected {
            let host = more["hostPath"].as_str().unwrap_or("/dev/there-is-none");
            assert!(format!("{error:#}").contains(host), "{error:#}");
        }
    }
}

#[test]
fn what_a_version_does_not_have_needs_a_later_one() {
    let device = |name: &str, edits: Value| json!({"kind": "vendor.com/class", "devices": [{"name": name, "containerEdits": edits}]});
    let env = json!({"env": ["A=1"]});
    let mut annotated = device("d", env.clone());
    annotated["annotations"] = json!({"a": "b"});
    let mut dotted = device("d", env.clone());
    dotted["kind"] = json!("vendor.com/cl.ass");
    let typed = json!({"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "bind"}]});
    for (file, needed) in [
        (device("d", env.clone()), "0.3.0"),
        (device("d", typed), "0.4.0"),
        (device("0", env.clone()), "0.5.0"),
        (
            device(
                "d",
                json!({"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}),
            ),
            "0.5.0",
        ),
        (annotated, "0.6.0"),
        (dotted, "0.6.0"),
        (device("d", json!({"additionalGids": [1]})), "0.7.0"),
        (device("d", json!({"intelRdt": {"closID": "a"}})), "0.7.0"),
        (
            device("d", json!({"intelRdt": {"enableMonitoring": true}})),
            "1.1.0",
        ),
        (
            device(
                "d",
                json!({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}),
            ),
            "1.1.0",
        ),
    ] {
        let versions = [
            "0.1.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "1.0.0", "v1.1.0",
        ];
        for version in versions {
            let mut file = file.clone();
            file["cdiVersion"] = json!(version);
            let read = File::parse(&file.to_string());
            let works = version.trim_start_matches('v') >= needed;
            assert_eq!(read.is_ok(), works, "{file}: {read:?}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let whole = |change: fn(&mut Value)| {
        let mut file: Value = serde_json::from_str(&one("1.1.0", json!({"env": ["A=1"]}))).unwrap();
        change(&mut file);
        file.to_string()
    };
    let edits = |edits: Value| one("1.1.0", edits);
    for text in [
        whole(|file| file["cdiVersion"] = json!("1.2.3")),
        whole(|file| file["kind"] = json!("class")),
        whole(|file| file["kind"] = json!("vendor.com/class/x")),
        whole(|file| file["devices"] = json!([])),
        whole(|file| file["devices"] = json!([file["devices"][0], file["devices"][0]])),
        whole(|file| file["devices"][0]["name"] = json!("-")),
        whole(|file| file["more"] = json!(1)),
        whole(|file| file["containerEdits"] = json!({"env": ["=1"]})),
        edits(json!({})),
        edits(json!({"env": ["A"]})),
        edits(json!({"deviceNodes": [{"hostPath": "/dev/null"}]})),
        edits(json!({"deviceNodes": [{"path": "/dev/a", "type": "x"}]})),
        edits(json!({"deviceNodes": [{"path": "/dev/a", "permissions": "rx"}]})),
        edits(json!({"hooks": [{"hookName": "then", "path": "/a"}]})),
        edits(json!({"hooks": [{"hookName": "poststop"}]})),
        edits(json!({"hooks": [{"hookName": "poststop", "path": "/a", "env": ["A"]}]})),
        edits(json!({"mounts": [{"hostPath": "/a"}]})),
        edits(json!({"mounts": [{"containerPath": "/a"}]})),
        edits(json!({"intelRdt": {"closID": "a/b"}})),
        edits(json!({"netDevices": [{"hostInterfaceName": "a"}]})),
        edits(json!({"netDevices": [
            {"hostInterfaceName": "a", "name": "x"},
            {"hostInterfaceName": "b", "name": "x"},
        ]})),
        "{".to_owned(),
        String::new(),
    ] {
        assert!(File::parse(&text).is_err(), "{text}");
    }
}

#[test]
fn json_is_read_as_yaml_is() {
    let text = "{\t\"cdiVersion\": \"0.3.0\",\n\t\"kind\": \"vendor.com\\/class\",\r\n\
                \"devices\": [{\"name\": \"d\", \"containerEdits\": {\"env\": [\"A=\\u00e9\"], \"mounts\": null}}]}";
    assert_eq!(File::parse(text).unwrap().kind, "vendor.com/class");
}

#[test]
fn annotations_ask_for_devices() {
    let annotations = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let asked = annotations(&[
        ("cdi.k8s.io/b", "v.com/c=3"),
        ("cdi.k8s.io/a", "v.com/c=1,v.com/c=2"),
        ("other", "no device"),
    ]);
    let found = asked_by_annotations(&asked).unwrap();
    assert_eq!(found, names(&["v.com/c=1", "v.com/c=2", "v.com/c=3"]));
    let wrong = annotations(&[("cdi.k8s.io/a", "v.com/c=1, v.com/c=2")]);
    assert!(asked_by_annotations(&wrong).is_err());
}
