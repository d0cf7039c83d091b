//! CRI by crictl and by a kubelet: upstream's containerd first, then cortend, and the same of both.

mod cluster;
mod critest;
mod devices;
mod failures;
mod kubelet;
mod metrics;
mod nri;
mod pods;
mod volumes;

use tests::node;
