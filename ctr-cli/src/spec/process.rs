//! Parts of a configuration's process: environment and capabilities.

use serde_json::{Value, json};

/// Sets variables `NAME=VALUE` in the environment; a name without a value is taken out.
pub fn set_env(spec: &mut Value, variables: Vec<String>) {
    let env = spec["process"]["env"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut env: Vec<String> = env
        .iter()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect();
    for variable in variables {
        let (name, value) = match variable.split_once('=') {
            Some((name, _)) => (name, true),
            None => (variable.as_str(), false),
        };
        let same = |known: &String| known.split('=').next() == Some(name);
        match (env.iter().position(same), value) {
            (Some(index), true) => env[index] = variable,
            (Some(index), false) => drop(env.remove(index)),
            (None, true) => env.push(variable),
            (None, false) => {}
        }
    }
    spec["process"]["env"] = json!(env);
}

/// Reads a capability's name with or without `CAP_`, in any case.
pub fn capability(text: &str) -> Result<String, String> {
    let name = sys::capability::full_name(text);
    match sys::capability::number(&name) {
        Some(_) => Ok(name),
        None => Err(format!("no capability {text:?}")),
    }
}

/// Changes bounding, permitted and effective capabilities.
pub fn change_capabilities(spec: &mut Value, mut change: impl FnMut(&mut Vec<String>)) {
    for set in ["bounding", "permitted", "effective"] {
        let mut names = capabilities(spec, set);
        change(&mut names);
        spec["process"]["capabilities"][set] = json!(names);
    }
}

/// Returns the capabilities of one set.
pub fn capabilities(spec: &Value, set: &str) -> Vec<String> {
    let names = spec["process"]["capabilities"][set].as_array();
    names
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_replaced_added_or_taken_out() {
        let mut spec = json!({"process": {"env": ["A=1", "B=2"]}});
        set_env(
            &mut spec,
            vec!["A=3".into(), "B".into(), "C=4=5".into(), "D".into()],
        );
        assert_eq!(spec["process"]["env"], json!(["A=3", "C=4=5"]));
    }

    #[test]
    fn capabilities_are_known_by_name() {
        assert_eq!(capability("net_admin").as_deref(), Ok("CAP_NET_ADMIN"));
        assert_eq!(capability("CAP_KILL").as_deref(), Ok("CAP_KILL"));
        assert!(capability("CAP_NOPE").is_err());
    }
}
