//! What runc reads of a configuration although the crate that has its types refuses it.

use oci_spec::runtime::{Capability, MemoryPolicyFlagType, MemoryPolicyModeType};
use serde::de::{DeserializeOwned, Error};
use serde_json::{Value, json};

/// Parses JSON whose process is at `process`, with what that leaves out or spells in another way put right.
pub(super) fn parse<T: DeserializeOwned>(
    text: &[u8],
    process: &[&str],
) -> Result<T, serde_json::Error> {
    let error = match serde_json::from_slice(text) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    // Not parsed so at first: a tree of values takes several times as long.
    let mut tree: Value = serde_json::from_slice(text)?;
    check_memory_policy(&tree)?;
    let found = process
        .iter()
        .try_fold(&mut tree, |value, name| value.get_mut(name));
    match found {
        Some(process) => repair(process),
        None => return Err(error),
    }
    serde_json::from_value(tree)
}

fn repair(process: &mut Value) {
    if let Value::Object(members) = process {
        // Go's zero value: root.
        members
            .entry("user")
            .or_insert_with(|| json!({ "uid": 0, "gid": 0 }));
    }
    if let Some(Value::Object(sets)) = process.get_mut("capabilities") {
        // Ones that nobody knows are left out.
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(is::<Capability>);
        }
    }
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        // The specification's name of it; the crate's is the kernel's.
        if flag == "SCHED_FLAG_RESET_ON_FORK" {
            *flag = json!("SCHED_RESET_ON_FORK");
        }
    }
}

/// Words what is wrong with a memory policy as runc does.
fn check_memory_policy(tree: &Value) -> Result<(), serde_json::Error> {
    let Some(policy) = tree.pointer("/linux/memoryPolicy") else {
        return Ok(());
    };
    let mode = policy.get("mode").unwrap_or(&Value::Null);
    if !is::<MemoryPolicyModeType>(mode) {
        let mode = mode.as_str().unwrap_or_default();
        return Err(Error::custom(format!(
            "invalid memory policy mode {mode:?}"
        )));
    }
    let flags = policy.get("flags").and_then(Value::as_array);
    match flags
        .into_iter()
        .flatten()
        .find(|flag| !is::<MemoryPolicyFlagType>(flag))
    {
        Some(flag) => Err(Error::custom(format!("invalid memory policy flag {flag}"))),
        None => Ok(()),
    }
}

fn is<T: DeserializeOwned>(value: &Value) -> bool {
    serde_json::from_value::<T>(value.clone()).is_ok()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Process, Spec};

    use super::*;

    #[test]
    fn a_process_needs_neither_a_user_nor_names_that_all_know() {
        let text = json!({
            "cwd": "/", "args": ["true"], "env": [],
            "capabilities": { "bounding": ["CAP_KILL", "CAP_FROB"] },
            "scheduler": { "policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"] },
        });
        let process: Process = parse(text.to_string().as_bytes(), &[]).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let sets = process.capabilities().clone().unwrap();
        assert_eq!(sets.bounding().as_ref().map(|set| set.len()), Some(1));
    }

    #[test]
    fn a_memory_policy_that_nobody_knows_is_told_of() {
        for (policy, expected) in [
            (json!({}), "invalid memory policy mode \"\""),
            (
                json!({ "mode": "LOCAL" }),
                "invalid memory policy mode \"LOCAL\"",
            ),
            (
                json!({ "mode": "MPOL_BIND", "flags": ["F"] }),
                "invalid memory policy flag \"F\"",
            ),
        ] {
            let mut config = crate::spec::defaults::config();
            config["linux"]["memoryPolicy"] = policy;
            let error = parse::<Spec>(config.to_string().as_bytes(), &["process"]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
