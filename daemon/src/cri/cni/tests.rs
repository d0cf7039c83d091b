use super::*;
use api_protos::runtime::v1::PortMapping;

/// Installs plugins that are shell scripts, and a network of them.
///
/// Another process writes them: a test that forks while this one has one open for writing would make it busy.
fn install(dir: &Path, plugins: &[(&str, &str)], version: &str) -> Cni {
    let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&conf).unwrap();
    for (name, script) in plugins {
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"",
            ])
            .arg(bin.join(name))
            .arg(script)
            .status();
        assert!(written.unwrap().success());
    }
    let list = plugins.iter();
    let list: Vec<Value> = list
        .map(|(name, _)| json!({"type": name, "capabilities": {"portMappings": true}}))
        .collect();
    let list = json!({"cniVersion": version, "name": "net", "plugins": list});
    std::fs::write(conf.join("10-net.conflist"), list.to_string()).unwrap();
    Cni::new(Config {
        bin_dirs: vec![bin],
        conf_dir: conf,
        ..Config::default()
    })
}

fn pod() -> PodSandboxConfig {
    PodSandboxConfig {
        port_mappings: vec![
            PortMapping {
                container_port: 80,
                host_port: 8080,
                ..PortMapping::default()
            },
            PortMapping {
                container_port: 81,
                ..PortMapping::default()
            },
        ],
        ..PodSandboxConfig::default()
    }
}

/// A plugin that notes what it is asked, and answers with an address.
const RECORD: &str = r#"
dir=$(dirname "$0"); name=$(basename "$0")
cat >"$dir/$name.$CNI_COMMAND"
echo "$CNI_COMMAND $name $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >>"$dir/calls"
[ "$CNI_COMMAND" = ADD ] && printf '{"interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/n"}],
"ips":[{"address":"10.0.0.1/24","interface":0},{"address":"fd00::2/64","interface":1},{"address":"10.0.0.2/24","interface":1}]}'
exit 0
"#;

#[tokio::test]
async fn plugins_are_asked_in_order_and_told_what_they_need() {
    let dir = tempfile::tempdir().unwrap();
    let cni = install(dir.path(), &[("one", RECORD), ("two", RECORD)], "1.0.0");
    let pod = pod();
    let attachment = Attachment::new("p1", Path::new("/n"), &pod).unwrap();
    let connected = cni.connect(&attachment).await.unwrap();
    assert_eq!(connected.ips, ["10.0.0.2", "fd00::2"]);
    cni.disconnect(&attachment, &connected.results)
        .await
        .unwrap();
    let bin = dir.path().join("bin");
    let calls = std::fs::read_to_string(bin.join("calls")).unwrap();
    let heads: Vec<&str> = calls
        .lines()
        .map(|line| line.split(" IgnoreUnknown").next().unwrap())
        .collect();
    assert_eq!(
        heads,
        [
            "ADD one p1 /n eth0",
            "ADD two p1 /n eth0",
            "DEL two p1 /n eth0",
            "DEL one p1 /n eth0"
        ]
    );
    let told = |file: &str| -> Value {
        serde_json::from_slice(&std::fs::read(bin.join(file)).unwrap()).unwrap()
    };
    assert_eq!(told("one.ADD")["prevResult"], Value::Null);
    assert_eq!(
        told("two.ADD")["prevResult"]["ips"][2]["address"],
        "10.0.0.2/24"
    );
    assert_eq!(
        told("one.DEL")["prevResult"]["ips"][2]["address"],
        "10.0.0.2/24"
    );
    assert_eq!(told("one.ADD")["name"], "net");
    let ports = &told("one.ADD")["runtimeConfig"];
    assert_eq!(
        ports,
        &json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]})
    );
}

#[tokio::test]
async fn a_plugin_that_fails_is_quoted_and_the_rest_is_taken_down() {
    let dir = tempfile::tempdir().unwrap();
    let fails = r#"[ "$CNI_COMMAND" = DEL ] && exit 0
        echo '{"cniVersion":"1.0.0","code":11,"msg":"no addresses left","details":"pool"}'; exit 1"#;
    let cni = install(dir.path(), &[("one", RECORD), ("two", fails)], "1.0.0");
    let pod = pod();
    let attachment = Attachment::new("p1", Path::new("/n"), &pod).unwrap();
    let error = cni.connect(&attachment).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.ends_with("plugin type=\"two\" failed (add): no addresses left; pool"),
        "{text}"
    );
    let calls = std::fs::read_to_string(dir.path().join("bin/calls")).unwrap();
    assert!(calls.contains("DEL one p1"), "{calls}");
}

#[tokio::test]
async fn nonsense_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let cni = install(dir.path(), &[("one", "echo hello")], "1.0.0");
    let pod = pod();
    let attachment = Attachment::new("p1", Path::new("/n"), &pod).unwrap();
    let error = cni.connect(&attachment).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("decode the answer"),
        "{error:#}"
    );
    let cni = install(dir.path(), &[("one", "echo '{}'")], "1.0.0");
    let error = cni.connect(&attachment).await.unwrap_err();
    assert!(
        error.to_string().contains("failed to find network info"),
        "{error:#}"
    );
}

#[tokio::test]
async fn plugins_are_asked_for_their_status_if_they_know_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let unready = "echo '{\"code\":50,\"msg\":\"not yet\"}'; exit 1";
    let cni = install(dir.path(), &[("one", unready)], "1.1.0");
    let error = cni.status().await.unwrap_err();
    assert!(format!("{error:#}").ends_with("not yet"), "{error:#}");
    install(dir.path(), &[("one", unready)], "1.0.0")
        .status()
        .await
        .unwrap();
    std::fs::remove_dir_all(dir.path().join("net.d")).unwrap();
    let error = cni.status().await.unwrap_err();
    assert!(
        error.to_string().starts_with("no network config found"),
        "{error:#}"
    );
}

#[test]
fn configurations_are_lists_or_single() {
    let list = Network::parse(r#"{"name":"a","plugins":[{"type":"x"},{"type":"y"}]}"#).unwrap();
    assert_eq!(list.plugins.len(), 2);
    let single = Network::parse(r#"{"name":"a","type":"x","cniVersion":"0.2.0"}"#).unwrap();
    assert_eq!(
        (single.plugins.len(), single.version.as_str()),
        (1, "0.2.0")
    );
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"name":"a","plugins":[]}"#,
        r#"{"name":"a","plugins":["x"]}"#,
        r#"{"plugins":[{"type":"x"}]}"#,
    ] {
        assert!(Network::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_plugin_is_a_name_and_no_path() {
    let cni = Cni::new(Config::default());
    for bad in ["", "../../bin/sh", "/bin/sh", ".."] {
        assert!(cni.find(bad).is_err(), "{bad}");
    }
}

#[test]
fn quantities_have_units() {
    for (text, number) in [
        ("10M", Some(10_000_000)),
        ("1Gi", Some(1 << 30)),
        ("7", Some(7)),
        ("x", None),
        ("1X", None),
        ("", None),
    ] {
        assert_eq!(quantity(text), number, "{text}");
    }
}

#[test]
fn the_preferred_address_is_the_first() {
    let result = json!({"ips": [{"address": "fd00::1/64"}, {"address": "10.0.0.1/8"}]});
    assert_eq!(addresses(&result, ""), ["10.0.0.1", "fd00::1"]);
    assert_eq!(addresses(&result, "ipv6"), ["fd00::1", "10.0.0.1"]);
    assert_eq!(addresses(&result, "cni"), ["fd00::1", "10.0.0.1"]);
    let old = json!({"ip4": {"ip": "10.0.0.3/8"}});
    assert_eq!(addresses(&old, ""), ["10.0.0.3"]);
}
