//! The OCI configuration of a container: containerd's defaults, then what the image says, then what the user says.

pub mod defaults;
pub mod limits;
pub mod options;
pub mod process;
pub mod user;

use anyhow::{Context as _, Result, bail};
use prost_types::Any;
use serde_json::{Value, json};

pub use options::SpecOptions;
pub use user::User;

/// The type of an `Any` that holds a container's configuration.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The type of an `Any` that holds one process of a configuration.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Returns a configuration as it is stored with a container.
pub fn pack(spec: &Value) -> Any {
    Any {
        type_url: SPEC.into(),
        value: spec.to_string().into_bytes(),
    }
}

/// Returns a process as it is sent to run in a container.
pub fn pack_process(process: &Value) -> Any {
    Any {
        type_url: PROCESS.into(),
        value: process.to_string().into_bytes(),
    }
}

/// Reads the configuration stored with a container.
pub fn unpack(any: Option<&Any>) -> Result<Value> {
    match any {
        Some(any) if any.type_url.ends_with("/Spec") => {
            serde_json::from_slice(&any.value).context("parse the container's configuration")
        }
        Some(any) => bail!("the container's configuration is a {}", any.type_url),
        None => bail!("the container has no configuration"),
    }
}

/// Returns whether the container's first process has a terminal.
pub fn has_terminal(spec: &Value) -> bool {
    spec.pointer("/process/terminal") == Some(&Value::Bool(true))
}

/// Puts the image's environment, working folder and command into `spec`; `arguments` replace its `Cmd`.
pub fn apply_image(spec: &mut Value, config: &Value, arguments: &[String]) -> Result<()> {
    let config = config.get("config").unwrap_or(&Value::Null);
    let texts = |key: &str| -> Vec<String> {
        let values = config.get(key).and_then(Value::as_array);
        values
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect()
    };
    process::set_env(spec, texts("Env"));
    if let Some(cwd) = config
        .get("WorkingDir")
        .and_then(Value::as_str)
        .filter(|cwd| !cwd.is_empty())
    {
        spec["process"]["cwd"] = json!(cwd);
    }
    // Arguments on the command line replace entrypoint and command, as they do with ctr.
    let command = if arguments.is_empty() {
        [texts("Entrypoint"), texts("Cmd")].concat()
    } else {
        arguments.to_vec()
    };
    if command.is_empty() {
        bail!("no command: neither the image nor the command line has one");
    }
    spec["process"]["args"] = json!(command);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_users_or_else_the_images() {
        let config = json!({"config": {"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["A=1"], "WorkingDir": "/w"}});
        for (arguments, expected) in [(vec![], vec!["/e", "c"]), (vec!["x".to_owned()], vec!["x"])]
        {
            let mut spec = defaults::linux("ns", "id");
            apply_image(&mut spec, &config, &arguments).unwrap();
            assert_eq!(spec["process"]["args"], json!(expected));
            assert_eq!(spec["process"]["cwd"], "/w");
            assert!(
                spec["process"]["env"]
                    .as_array()
                    .unwrap()
                    .contains(&json!("A=1"))
            );
        }
        let mut spec = defaults::linux("ns", "id");
        assert!(apply_image(&mut spec, &json!({}), &[]).is_err());
    }

    #[test]
    fn a_configuration_survives_the_store() {
        let spec = defaults::linux("ns", "id");
        assert_eq!(unpack(Some(&pack(&spec))).unwrap(), spec);
        assert!(unpack(None).is_err());
    }
}
