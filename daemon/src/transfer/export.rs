//! Exporting: from the image store to an archive.

use super::Session;
use super::bytes::{Output, Sending};
use super::store::ImageStore;
use crate::error::{Kind, Result};
use crate::images::export::{Options, export};

/// An archive that a client receives.
#[derive(Debug)]
pub struct Outgoing {
    pub output: Output,
    pub sending: Sending,
    pub options: Options,
}

impl Session {
    pub(super) async fn export(self, store: ImageStore, outgoing: Outgoing) -> Result<()> {
        let progress = self.progress.clone();
        progress.event("Exporting");
        let Outgoing {
            output,
            sending,
            options,
        } = outgoing;
        let written = self.blocking(move |session| {
            let (parts, context) = (&session.parts, &session.context);
            let images = store.lookup(&parts.images, context)?;
            export(&parts.content, context, &images, &options, output)
        });
        let written = written.await;
        let sent = sending.done().await;
        match (written, sent) {
            // Why nobody takes the bytes any more says more than that nobody does.
            (Err(_), Err(error)) if error.kind() == Kind::Canceled => return Err(error),
            (Err(error), _) | (Ok(()), Err(error)) => return Err(error),
            (Ok(()), Ok(())) => {}
        }
        progress.event("Completed export");
        Ok(())
    }
}
