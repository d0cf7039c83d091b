# The commands that matter: `make test` runs everything that is tested.
.PHONY: mutants release test torture soak test-docker test-nerdctl test-cri test-kubelet test-cluster demo bench lint deny peers

test:
	@bash tests/run

# Debian's newest Docker on top of cortend, all of its cases, each compared with Docker on upstream containerd.
test-docker:
	@bash tests/peers-docker
	@bash tests/peers-docker-sdk
	@bash tests/peers-criu
	CORTEN_TESTS_DOCKER=all cargo test -p tests --test cases docker::

# Random Docker operations on a cortend that is killed every 20 seconds, for an hour.
soak:
	@bash tests/peers-docker
	CORTEN_SOAK_SECONDS=$${CORTEN_SOAK_SECONDS:-3600} cargo test -p tests --test cases docker::soak -- --nocapture

# The daemon and its shims are killed and fail at every failpoint, each time that they come by, and at random instants,
# as upstream's daemon is beside them; the table counts what each has lost and leaked.
torture:
	@bash tests/peers
	CORTEN_TORTURE=1 cargo test -p tests --test cases torture:: -- --nocapture --test-threads=1

# nerdctl and BuildKit on top of cortend, each case compared with upstream containerd.
test-nerdctl:
	@bash tests/peers
	@bash tests/peers-nerdctl
	cargo test -p tests --test cases nerdctl::

# The Kubernetes node SIG's suite of CRI on upstream containerd and on cortend; writes docs/parity/critest.md.
test-cri:
	@bash tests/peers
	@bash tests/peers-cri
	CORTEN_TESTS_CRITEST=1 cargo test -p tests --test cases cri::critest -- --nocapture

# Kubernetes' kubelet with static pods on upstream containerd and on cortend; builds it the first time.
test-kubelet:
	@bash tests/peers
	@bash tests/peers-kubelet
	CORTEN_TESTS_KUBELET=1 cargo test -p tests --test cases cri::kubelet

# A cluster of one node, from Kubernetes' own programs, on upstream containerd and on cortend; builds them the first time.
test-cluster:
	@bash tests/peers
	@bash tests/peers-cluster
	CORTEN_TESTS_CLUSTER=1 cargo test -p tests --test cases cri::cluster -- --test-threads=1

# Our programs as they are released, without shared libraries, in target/<host>/release.
release:
	@bash tests/release

# The tests of defences, each on a runtime without the defence, where it has to fail.
mutants:
	@bash tests/mutants

# The engine end to end, from a release build to nothing left behind.
demo:
	@bash demo/run

# The table of ratios against Debian's newest containerd, runc and crun.
bench:
	@bash bench/run

# The foreign programs that test, demo and bench need; they call it themselves.
peers:
	@bash tests/peers

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Licences, duplicate and banned crates, sources; needs cargo-deny, and for the advisories the network.
deny:
	cargo deny check
