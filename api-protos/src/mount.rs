//! Mounts as the wire has them, and as the kernel's crate does.

use crate::containerd::types::Mount;

impl From<sys::mount::Mount> for Mount {
    fn from(mount: sys::mount::Mount) -> Self {
        Self {
            r#type: mount.fstype,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}

impl From<Mount> for sys::mount::Mount {
    fn from(mount: Mount) -> Self {
        Self {
            fstype: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}
