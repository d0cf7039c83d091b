//! A registry as a side of a transfer.

use std::fmt;

use crate::blocking::blocking;
use crate::error::Result;
use crate::registry::{Options, Reference, Registry};

/// A reference and how its registry is to be reached.
#[derive(Clone)]
pub struct Remote {
    /// The reference as the client wrote it.
    pub reference: String,
    pub options: Options,
}

impl Remote {
    /// Reads how the registry is to be reached.
    pub async fn open(&self) -> Result<Registry> {
        let reference = Reference::parse(&self.reference)?;
        let options = self.options.clone();
        blocking(move || Registry::open(reference, &options)).await
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OCI Registry ({})", self.reference)
    }
}
