//! Docker's SDK for Python on its REST API.

use tests::{peers, print_skip};

use super::{Setup, Step, Store, long_or_skip, same_on_both, steady};

/// What it does, and says of what it sees.
const PROGRAM: &str = include_str!("sdk.py");

#[test]
fn the_sdk_for_python_sees_the_same_on_the_graph_driver() {
    sdk(Store::Overlay2);
}

#[test]
fn the_sdk_for_python_sees_the_same_on_the_image_store() {
    sdk(Store::Containerd);
}

fn sdk(store: Store) {
    if !long_or_skip() {
        return;
    }
    let Some(sdk) = peers::folder("sdk.env", "PEERS_DOCKER_SDK") else {
        return print_skip("needs Docker's SDK for Python: run tests/peers-docker-sdk");
    };
    same_on_both(&Setup::new(store).with_network(), |dockerd| {
        std::fs::write(dockerd.work().join("sdk.py"), PROGRAM).expect("write a file");
        let said = dockerd.ok(&format!("{}/bin/python sdk.py", sdk.display()));
        let step = |line: &str| -> Step {
            let (what, values) = line.split_once(':').unwrap_or((line, ""));
            let values = steady(dockerd, values);
            (what.to_owned(), None, format!("{values}\n"), String::new())
        };
        said.lines().map(step).collect()
    });
}
