//! Removes the partials that no unfinished transfer owns. Runs in the background, so that the start
//! of the server does not wait for the disk.
//!
//! The record of each transfer decides: it names the partial before the upload begins. A partial that
//! this process created is never removed, because its record may not be durable yet.

use std::sync::Arc;

use filepull_core::disk::PartialKey;
use filepull_core::human::chain;
use filepull_core::id::ClientId;
use filepull_core::transfer::Phase;
use tracing::{debug, info, warn};

use super::TaskContext;
use super::disk::run;
use crate::records::RecordedTransfer;
use crate::store::StoreError;

/// Ends when every folder was read once, or when the server drains.
pub(crate) async fn sweep(context: Arc<TaskContext>) {
    let drain = context.lifecycle.drain().clone();
    let swept = async {
        let n_removed = sweep_all(&context).await;
        context.store.end_sweep();
        if 0 < n_removed {
            info!(event = "store.swept", n_removed, "removed partials that no transfer owns");
        } else {
            debug!(event = "store.sweep_finished", "no leftover partial found");
        }
    };
    let _ = drain.run_until_cancelled(swept).await;
}

async fn sweep_all(context: &TaskContext) -> usize {
    let mut n_removed = 0;
    let store = context.store.clone();
    for client in entries_or_none(run(move || store.clients()).await) {
        let store = context.store.clone();
        let folder = client.clone();
        for partial in entries_or_none(run(move || store.partials(&folder)).await) {
            if !is_wanted(context, &partial).await && remove(context, partial).await {
                n_removed += 1;
            }
        }
    }
    n_removed
}

/// A folder or a record that cannot be read is skipped: the sweep continues.
fn entries_or_none<T>(read: Result<Vec<T>, StoreError>) -> Vec<T> {
    read.unwrap_or_else(|error| {
        warn!(event = "store.sweep_failed", error = %chain(&error), "a folder was not swept");
        Vec::new()
    })
}

/// Returns whether the record says that the transfer still needs this partial. True if the record
/// cannot be read.
async fn is_wanted(context: &TaskContext, partial: &PartialKey) -> bool {
    match context.records.transfer(partial.transfer).await {
        Ok(None) => false,
        Ok(Some(RecordedTransfer::Readable(transfer))) => match transfer.phase {
            Phase::Receiving(_) | Phase::Sealed(_) => transfer.partial() == *partial,
            Phase::Queued
            | Phase::Done(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => false,
        },
        Ok(Some(RecordedTransfer::Damaged(_))) | Err(_) => true,
    }
}

async fn remove(context: &TaskContext, partial: PartialKey) -> bool {
    let store = context.store.clone();
    let client: ClientId = partial.client.clone();
    match run(move || store.remove_leftover(&partial)).await {
        Ok(removed) => removed,
        Err(error) => {
            let error = chain(&error);
            warn!(event = "store.sweep_failed", %client, %error, "a leftover was not removed");
            false
        }
    }
}
