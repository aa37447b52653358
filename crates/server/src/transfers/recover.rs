//! What lies on the disk: what an earlier process left, or what a failure leaves in doubt.

use filepull_core::receive::Receiver;
use filepull_core::transfer::{Download, Recovery, SealedFound, Transfer};

use super::effects::run;
use super::life::{Ending, Life};
use super::store_failed;
use crate::receive::Held;
use crate::store::{Store, StoreError, digest_of};

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
        .map_err(|error| self.meaning(store_failed(&error)))?;
        self.held = found;
        let effects = self.transfer.prefix_found(self.held.is_some());
        self.perform(&effects).await?;
        Ok(())
    }

    /// Looks where a sealed download is: under its name, or still in its partial, which is then
    /// held.
    pub(super) async fn find_sealed(&mut self, download: Download) -> Result<SealedFound, Ending> {
        let (store, transfer) = (self.shared.store.clone(), self.transfer.clone());
        let looked = run(move || look(&store, &transfer, &download)).await;
        let (found, held) = looked.map_err(|error| self.meaning(store_failed(&error)))?;
        self.held = held;
        Ok(found)
    }
}

fn look(
    store: &Store,
    transfer: &Transfer,
    download: &Download,
) -> Result<(SealedFound, Option<Held>), StoreError> {
    let whole = (download.size, download.digest);
    let Transfer { client, id, generation, .. } = transfer;
    if let Some(file) = store.find_download(client, &download.name)?
        && inode(&file) == Some(download.inode)
    {
        let read = digest_of(&file);
        let found = read.map_err(|error| store.unreadable(client, &download.name, error))?;
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
}

fn inode(file: &std::fs::File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(file.metadata().ok()?.ino())
}
