//! Performs the effects that `core::transfer` asks for, one after the other.

use filepull_core::problem::Problem;
use filepull_core::transfer::{Effect, Phase, Transfer};
use tokio::task::spawn_blocking;

use super::{Shared, records_failed, store_failed};
use crate::receive::Held;
use crate::store::{Published, StoreError};

/// Performs `effects` in their order, each one finished before the next begins. Says whether the
/// last [`Effect::Publish`] found its name taken.
///
/// After an error `held` is gone: nobody may build on a partial whose write or sync failed.
pub(super) async fn perform(
    shared: &Shared,
    transfer: &Transfer,
    held: &mut Option<Held>,
    effects: &[Effect],
) -> Result<Published, Problem> {
    let mut published = Published::Named;
    for effect in effects {
        if *effect == Effect::Record {
            shared.records.save(transfer).await.map_err(|e| records_failed(&e))?;
        } else {
            published = on_disk(shared, transfer, held, effect).await?;
        }
    }
    Ok(published)
}

async fn on_disk(
    shared: &Shared,
    transfer: &Transfer,
    held: &mut Option<Held>,
    effect: &Effect,
) -> Result<Published, Problem> {
    let (store, effect, taken) = (shared.store.clone(), effect.clone(), held.take());
    let transfer = transfer.clone();
    let job = move || {
        let mut held = taken;
        let result = one(&store, &transfer, &mut held, &effect);
        (held, result)
    };
    let (kept, result) = run(job).await;
    match result {
        Ok(published) => {
            *held = kept;
            Ok(published)
        }
        Err(error) => Err(store_failed(&error)),
    }
}

fn one(
    store: &crate::store::Store,
    transfer: &Transfer,
    held: &mut Option<Held>,
    effect: &Effect,
) -> Result<Published, StoreError> {
    let Transfer { client, id, generation, .. } = transfer;
    match effect {
        Effect::Record => {} // not the disk's
        Effect::CreatePartial => {
            let size = transfer.source().map_or(0, |source| source.size);
            let partial = store.create_partial(client, *id, *generation, size)?;
            let receiver = filepull_core::receive::Receiver::new(size);
            *held = Some(Held { partial, receiver });
        }
        Effect::SyncPartial => {
            if let Some(held) = held {
                if let Phase::Sealed(_) = transfer.phase {
                    held.partial.protect()?;
                }
                held.partial.sync()?;
            }
        }
        Effect::SyncFolder => store.sync_folder(client)?,
        Effect::Publish => {
            if let (Some(held), Phase::Sealed(download)) = (held, &transfer.phase) {
                return held.partial.publish(&download.name);
            }
        }
        Effect::RemovePartial(generation) => {
            // Of an older generation, or of a transfer that has ended: not what `held` writes to.
            store.remove_partial(client, *id, *generation)?;
        }
    }
    Ok(Published::Named)
}

/// Runs a job on the blocking pool. A panic in it is ours too.
pub(super) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(job).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
