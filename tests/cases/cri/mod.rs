//! CRI by crictl: upstream's containerd first, then cortend, and the same of both.

mod critest;
mod node;
mod pods;
mod volumes;
