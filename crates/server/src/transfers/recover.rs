//! Recovers what an earlier process left in the partial.

use filepull_core::disk;
use filepull_core::transfer::Recovery;

use super::task::{Ending, TransferTask};
use crate::receive::ReceivedPartial;

impl TransferTask {
    /// After a restart: reads the partial back and cuts it to its checkpoint.
    pub(super) async fn recover_prefix(&mut self) -> Result<(), Ending> {
        let Recovery::ReadPrefix(checkpoint) = self.transfer.recovery() else { return Ok(()) };
        if self.held.is_some() {
            return Ok(()); // this process received it
        }
        let key = self.transfer.partial();
        let found = self.on_disk(move |store| disk::resume(store, &key, checkpoint)).await;
        match found.map_err(|error| self.disk_failed(error))? {
            Some(resumed) => {
                self.held = Some(ReceivedPartial::resumed(self.shared.store.clone(), resumed));
                Ok(())
            }
            None => self.start_over().await,
        }
    }
}
