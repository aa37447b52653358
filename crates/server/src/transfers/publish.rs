//! From the record that seals a transfer to the download.

use std::time::Duration;

use filepull_core::backoff::Ended;
use filepull_core::transfer::{Effect, Recovery, SealedFound};
use tokio::time::sleep;
use tracing::error;

use super::failed::Waits;
use super::life::{Ending, Life, again};
use super::now;
use super::view::Stage;
use crate::store::Published;

impl Life {
    /// Performs the effects that seal the transfer, and keeps at it until it is published: once the
    /// record says "sealed" the name may be there, so that nobody can be told of a failure any more.
    /// With no effects it begins by looking at the disk, as after a restart.
    ///
    /// False if nothing is left of the file: it must be sent again.
    pub(super) async fn publish(&mut self, effects: &[Effect]) -> Result<bool, Ending> {
        let mut published = match effects {
            [] => self.publish_found().await,
            effects => self.name(effects).await.map(|()| true),
        };
        let (mut backoff, mut waits) = (again(), None);
        while let Err(Ending::Unsure) = published {
            if waits.is_none() {
                waits = Some(Waits::begin(&self.shared));
                let (transfer, client) = (self.transfer.id, &self.transfer.client);
                error!(
                    event = "transfer.unknown", %transfer, %client,
                    "whether the download is safe cannot be told yet; looking again until it can"
                );
                self.show(Stage::Running);
            }
            // Not on the same descriptors: the system reports a lost write only once.
            self.held = None;
            let pause = backoff.next(Ended::Lost { lived: Duration::ZERO }, fastrand::f64());
            self.unless_ended(sleep(pause)).await?;
            published = self.publish_found().await;
        }
        published
    }

    /// Looks for what is sealed, and publishes what there is of it. The agent is not needed.
    async fn publish_found(&mut self) -> Result<bool, Ending> {
        let Recovery::FindSealed(download) = self.transfer.recovery() else { return Ok(false) };
        let found = self.find_sealed(download).await?;
        let effects = self.transfer.sealed_found(found);
        match found {
            SealedFound::Nowhere => self.perform(&effects).await.map(|_| false),
            SealedFound::Named | SealedFound::Partial => self.name(&effects).await.map(|()| true),
        }
    }

    /// From the first try of a name to the download.
    async fn name(&mut self, effects: &[Effect]) -> Result<(), Ending> {
        let mut published = self.perform(effects).await?;
        while published == Published::Taken {
            let effects = self.transfer.name_taken();
            published = self.perform(&effects).await?;
        }
        self.held = None;
        let effects = self.transfer.published(now());
        self.perform(&effects).await?;
        self.show_done();
        Ok(())
    }
}
