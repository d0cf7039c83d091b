//! Pods: one file for each call.

pub mod files;
pub mod list;
pub mod port_forward;
pub mod remove;
pub mod run;
pub mod stats;
pub mod status;
pub mod stop;
pub mod update;

use api_protos::runtime::v1::PodSandboxState;

use super::store::PodRecord;

/// Returns the state of a pod as CRI has it.
pub fn state(record: &PodRecord) -> PodSandboxState {
    match record.ready {
        true => PodSandboxState::SandboxReady,
        false => PodSandboxState::SandboxNotready,
    }
}

/// Returns whether `labels` has all that `selector` asks for.
pub fn selected(
    labels: &std::collections::HashMap<String, String>,
    selector: &std::collections::HashMap<String, String>,
) -> bool {
    let mut wanted = selector.iter();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}
