//! From the record that seals a transfer to the download.

use std::time::Duration;

use filepull_core::backoff::Ended;
use filepull_core::disk::{self, Committed, Disk as _, Durable, Extent, Sealed};
use filepull_core::transfer::{Phase, Recovery};
use tokio::time::sleep;
use tracing::error;

use super::failed::Waits;
use super::life::{Ending, Life, again};
use super::now;
use super::view::Stage;
use crate::store::Partial;

impl Life {
    /// Publishes what the record says is sealed, and retries until that is done: the name may be
    /// there already, so that nobody can be told of a failure any more. If nothing is held it begins
    /// by searching the disk, as after a restart.
    ///
    /// False if nothing is left of the file: it must be sent again.
    pub(super) async fn publish(&mut self) -> Result<bool, Ending> {
        let mut published = match self.held.take() {
            None => self.publish_found().await,
            Some(held) => self.name(held.partial).await,
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
            let pause = backoff.next(Ended::Lost { lived: Duration::ZERO }, fastrand::f64());
            self.unless_ended(sleep(pause)).await?;
            published = self.publish_found().await;
        }
        let Some(named) = published? else {
            self.start_over().await?;
            return Ok(false);
        };
        self.transfer.published(now(), named);
        self.record().await?;
        self.show_done();
        Ok(true)
    }

    /// Searches for what is sealed, and names it; none if it is nowhere. The agent is not needed.
    /// Never on the same descriptors: the system reports a lost write only once.
    async fn publish_found(&mut self) -> Result<Option<Durable>, Ending> {
        let Recovery::FindSealed(download) = self.transfer.recovery() else { return Ok(None) };
        let key = self.transfer.partial();
        let job = self.on_disk(move |store| {
            let found = disk::find_sealed(store, &key, &download)?;
            if let Sealed::Unnamed(resumed) = &found {
                let _synced = store.sync(&resumed.partial, Extent::Whole)?;
            }
            Ok(found)
        });
        match job.await.map_err(|error| self.disk_failed(error))? {
            Sealed::Named(named) => Ok(Some(named)),
            Sealed::Unnamed(resumed) => self.name(resumed.partial).await,
            Sealed::Lost => Ok(None),
        }
    }

    /// Names a partial, by the first name that nothing else has.
    async fn name(&mut self, partial: Partial) -> Result<Option<Durable>, Ending> {
        loop {
            let Phase::Sealed(download) = &self.transfer.phase else { return Ok(None) };
            let (partial, name) = (partial.clone(), download.name.clone());
            let committed = self.on_disk(move |store| store.commit(&partial, &name)).await;
            match committed.map_err(|error| self.disk_failed(error))? {
                Committed::Named(named) => return Ok(Some(named)),
                Committed::Taken => self.transfer.name_taken(),
            }
            self.record_sealed().await?;
        }
    }
}
