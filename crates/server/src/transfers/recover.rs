//! What a transfer does first after a restart: look at what an earlier process left on the disk.

use filepull_core::receive::Receiver;
use filepull_core::transfer::{Recovery, SealedFound, Transfer};

use super::effects::run;
use super::life::{Ending, Life};
use super::{now, store_failed};
use crate::receive::Held;
use crate::store::digest_of;

impl Life {
    /// After a restart: reads the partial back and cuts it to its checkpoint.
    pub(super) async fn recover_prefix(&mut self) -> Result<(), Ending> {
        let Recovery::ReadPrefix(checkpoint) = self.transfer.recovery() else { return Ok(()) };
        if self.held.is_some() {
            return Ok(()); // this process received it
        }
        let (store, transfer) = (self.shared.store.clone(), self.transfer.clone());
        let found = run(move || {
            let Transfer { client, id, generation, .. } = &transfer;
            let Some(mut partial) = store.open_partial(client, *id, *generation, checkpoint.len)?
            else {
                return Ok(None);
            };
            let mut receiver = Receiver::new(u64::MAX);
            partial.read_back(|bytes| {
                let offset = receiver.received();
                // A file on a disk is shorter than the largest number.
                let _ = receiver.chunk(offset, bytes);
            })?;
            let holds = receiver.prefix() == checkpoint;
            Ok(holds.then_some(Held { partial, receiver }))
        })
        .await
        .map_err(|error| store_failed(&error))?;
        self.held = found;
        let effects = self.transfer.prefix_found(self.held.is_some());
        self.perform(&effects).await?;
        Ok(())
    }

    /// After a restart: publishes what was sealed. The agent is not needed. Was there anything?
    pub(super) async fn recover_sealed(&mut self) -> Result<bool, Ending> {
        let Recovery::FindSealed(download) = self.transfer.recovery() else { return Ok(false) };
        let (store, transfer) = (self.shared.store.clone(), self.transfer.clone());
        let whole = (download.size, download.digest);
        let (found, held) = run(move || {
            let Transfer { client, id, generation, .. } = &transfer;
            if let Some(file) = store.find_download(client, &download.name)?
                && inode(&file) == Some(download.inode)
            {
                let read = digest_of(&file);
                let found =
                    read.map_err(|error| store.unreadable(client, &download.name, error))?;
                if found == whole {
                    return Ok((SealedFound::Named, None));
                }
            }
            let partial = store.open_partial(client, *id, *generation, download.size)?;
            let Some(mut partial) = partial else { return Ok((SealedFound::Nowhere, None)) };
            let mut receiver = Receiver::new(download.size);
            partial.read_back(|bytes| {
                let _ = receiver.chunk(receiver.received(), bytes);
            })?;
            let prefix = receiver.prefix();
            if (prefix.len, prefix.digest) != whole {
                return Ok((SealedFound::Nowhere, None));
            }
            Ok((SealedFound::Partial, Some(Held { partial, receiver })))
        })
        .await
        .map_err(|error| {
            // Whether it is published cannot be told now; what is on record stays.
            store_failed(&error);
            Ending::Left
        })?;
        self.held = held;
        let effects = self.transfer.sealed_found(found, now());
        let published = match self.perform(&effects).await {
            Ok(published) => published,
            Err(problem) if found == SealedFound::Nowhere => return Err(problem.into()),
            // Whole and maybe named already: it stays sealed, and the next start tries again.
            Err(_) => return Err(Ending::Left),
        };
        match found {
            SealedFound::Named => self.show_done(),
            SealedFound::Partial => self.finish_publishing(published).await?,
            SealedFound::Nowhere => return Ok(false),
        }
        Ok(true)
    }
}

fn inode(file: &std::fs::File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(file.metadata().ok()?.ino())
}
