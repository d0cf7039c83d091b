//! ReopenContainerLog.

use crate::cri::Cri;
use crate::error::{Error, Kind, Result};

/// Has a container's log go on in a new file.
pub fn reopen(cri: &Cri, id: &str) -> Result<()> {
    let container = cri.store.container(id)?;
    if container.state().pid().is_none() {
        return Err(Error::new(Kind::Unknown, "container is not running"));
    }
    container.io.reopen_log()
}
