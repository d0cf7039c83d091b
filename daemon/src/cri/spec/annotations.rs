//! Annotations of specifications: what shims and their hooks learn of the pod.

use api_protos::runtime::v1::PodSandboxConfig;

use crate::labels::Labels;

const TYPE: &str = "io.kubernetes.cri.container-type";
/// Containers with the same value share a shim.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
const UID: &str = "io.kubernetes.cri.sandbox-uid";
const NAME: &str = "io.kubernetes.cri.sandbox-name";
const LOG_DIRECTORY: &str = "io.kubernetes.cri.sandbox-log-directory";
const POD_IMAGE: &str = "io.kubernetes.cri.podsandbox.image-name";
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
const IMAGE: &str = "io.kubernetes.cri.image-name";

/// Returns what is said of a pod's sandbox.
pub fn of_sandbox(id: &str, image: &str, pod: &PodSandboxConfig) -> Labels {
    let mut annotations = of_pod("sandbox", id, pod);
    annotations.insert(LOG_DIRECTORY.into(), pod.log_directory.clone());
    annotations.insert(POD_IMAGE.into(), image.into());
    let linux = pod.linux.clone().unwrap_or_default();
    if let Some(resources) = linux.resources {
        for (key, value) in [
            ("cpu-period", resources.cpu_period),
            ("cpu-quota", resources.cpu_quota),
            ("cpu-shares", resources.cpu_shares),
            ("memory", resources.memory_limit_in_bytes),
        ] {
            let key = format!("io.kubernetes.cri.sandbox-{key}");
            annotations.insert(key, value.to_string());
        }
    }
    annotations
}

/// Returns what is said of a container in a pod.
pub fn of_container(pod_id: &str, name: &str, image: &str, pod: &PodSandboxConfig) -> Labels {
    let mut annotations = of_pod("container", pod_id, pod);
    annotations.insert(CONTAINER_NAME.into(), name.into());
    annotations.insert(IMAGE.into(), image.into());
    annotations
}

fn of_pod(kind: &str, id: &str, pod: &PodSandboxConfig) -> Labels {
    let metadata = pod.metadata.clone().unwrap_or_default();
    Labels::from([
        (TYPE.into(), kind.into()),
        (SANDBOX_ID.into(), id.into()),
        (NAMESPACE.into(), metadata.namespace),
        (UID.into(), metadata.uid),
        (NAME.into(), metadata.name),
    ])
}

/// Returns those of `given` whose keys one of `patterns` matches, which have `*` for any text without a slash.
pub fn passed_through<'a>(
    given: impl IntoIterator<Item = (&'a String, &'a String)>,
    patterns: &[String],
) -> Labels {
    let wanted = |key: &str| patterns.iter().any(|pattern| matches(pattern, key));
    given
        .into_iter()
        .filter(|(key, _)| wanted(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            let Some(rest) = text.strip_prefix(before) else {
                return false;
            };
            let reach = rest.find('/').unwrap_or(rest.len());
            let mut ends = (0..=reach).filter(|end| rest.is_char_boundary(*end));
            ends.any(|end| matches(after, &rest[end..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_do_not_reach_over_slashes() {
        for (pattern, text, matched) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b/c", false),
            ("a.*/*", "a.b/c", true),
            ("*", "a.b/c", false),
            ("*.c", "a.b.c", true),
            ("a*b*c", "axbyc", true),
            ("a.b", "a.bc", false),
        ] {
            assert_eq!(matches(pattern, text), matched, "{pattern} {text}");
        }
    }

    #[test]
    fn shims_learn_which_pod_a_container_is_of() {
        let annotations = of_container("p1", "web", "img", &PodSandboxConfig::default());
        assert_eq!(annotations[SANDBOX_ID], "p1");
        assert_eq!(annotations[TYPE], "container");
        let annotations = of_sandbox("p1", "pause", &PodSandboxConfig::default());
        assert_eq!(annotations[SANDBOX_ID], "p1");
        assert_eq!(annotations[TYPE], "sandbox");
    }
}
