//! What lies on the disk: what an earlier process left, or what a failure leaves in doubt.

use filepull_core::receive::{Prefix, Receiver};
use filepull_core::source::Fingerprint;
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
        let found = run(move || hold(&store, &transfer, checkpoint)).await;
        self.held = found.map_err(|error| self.meaning(store_failed(&error)))?;
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
    let whole = Prefix { len: download.size, digest: download.digest };
    let client = &transfer.client;
    if let Some(file) = store.find_download(client, &download.name)?
        && inode(&file) == Some(download.inode)
    {
        let read = digest_of(&file);
        let (len, digest) =
            read.map_err(|error| store.unreadable(client, &download.name, error))?;
        if (Prefix { len, digest }) == whole {
            return Ok((SealedFound::Named, None));
        }
    }
    let held = hold(store, transfer, whole)?;
    let found = if held.is_some() { SealedFound::Partial } else { SealedFound::Nowhere };
    Ok((found, held))
}

/// Opens the transfer's partial, cuts it to the length of `prefix` and reads it; nothing if that is
/// not what it holds.
fn hold(store: &Store, transfer: &Transfer, prefix: Prefix) -> Result<Option<Held>, StoreError> {
    let Transfer { client, id, generation, .. } = transfer;
    let Some(mut partial) = store.open_partial(client, *id, *generation, prefix.len)? else {
        return Ok(None);
    };
    let (mut receiver, mut fingerprint) = (Receiver::new(prefix.len), Fingerprint::default());
    partial.read_back(|bytes| {
        fingerprint.update(bytes);
        // More than the file was cut to cannot come; if it did, the digest would not agree.
        let _ = receiver.chunk(receiver.received(), bytes);
    })?;
    let holds = receiver.prefix() == prefix;
    Ok(holds.then_some(Held::new(partial, receiver, fingerprint)))
}

fn inode(file: &std::fs::File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(file.metadata().ok()?.ino())
}
