//! Performs the effects that `core::transfer` asks for, one after the other.

use std::time::Duration;

use filepull_core::backoff::Ended;
use filepull_core::source::Fingerprint;
use filepull_core::transfer::{Effect, Phase, Transfer};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::failed::{Failed, Waits};
use super::life::{Ending, Life, again};
use super::{Shared, store_failed};
use crate::receive::Held;
use crate::store::{Published, Store, StoreError};

impl Life {
    /// Performs `effects` in their order, each one finished before the next begins. Stops when
    /// [`Effect::Publish`] finds its name taken, and says so.
    ///
    /// After an error of the disk `held` is gone: nobody may build on a partial whose write or sync
    /// failed.
    pub(super) async fn perform(&mut self, effects: &[Effect]) -> Result<Published, Ending> {
        // Those that follow each other on the disk are one job: a job costs two changes of thread.
        for effects in effects.chunk_by(|a, b| *a != Effect::Record && *b != Effect::Record) {
            if let [Effect::Record] = effects {
                self.record().await?;
                continue;
            }
            match on_disk(&self.shared, &self.transfer, &mut self.held, effects).await {
                Ok(Published::Named) => {}
                Ok(Published::Taken) => return Ok(Published::Taken),
                Err(failed) => return Err(self.meaning(failed)),
            }
        }
        Ok(Published::Named)
    }

    /// Puts the transfer on record as it now stands, and tries until it is there: records that fail
    /// are no fault of the transfer. A cancel and the end of the process are heeded.
    pub(super) async fn record(&mut self) -> Result<(), Ending> {
        let mut backoff = again();
        let mut waits = None;
        while self.shared.save(&self.transfer).await.is_err() {
            waits.get_or_insert_with(|| Waits::begin(&self.shared));
            let pause = backoff.next(Ended::Lost { lived: Duration::ZERO }, fastrand::f64());
            self.unless_ended(sleep(pause)).await?;
        }
        self.sealed = matches!(self.transfer.phase, Phase::Sealed(_));
        Ok(())
    }
}

async fn on_disk(
    shared: &Shared,
    transfer: &Transfer,
    held: &mut Option<Held>,
    effects: &[Effect],
) -> Result<Published, Failed> {
    let (store, effects, taken) = (shared.store.clone(), effects.to_vec(), held.take());
    let transfer = transfer.clone();
    let job = move || {
        let mut held = taken;
        let result = all(&store, &transfer, &mut held, &effects);
        (held, result)
    };
    let (kept, result) = run(job).await;
    if result.is_ok() {
        *held = kept;
    }
    result
}

fn all(
    store: &Store,
    transfer: &Transfer,
    held: &mut Option<Held>,
    effects: &[Effect],
) -> Result<Published, Failed> {
    for effect in effects {
        match one(store, transfer, held, effect).map_err(|error| store_failed(&error)) {
            Ok(Published::Named) => {}
            Ok(Published::Taken) => return Ok(Published::Taken),
            // It is in nobody's way: no other generation has its name, and the next start sweeps it.
            Err(_) if matches!(effect, Effect::RemovePartial(_)) => {}
            Err(failed) => return Err(failed),
        }
    }
    Ok(Published::Named)
}

fn one(
    store: &Store,
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
            *held = Some(Held::new(partial, receiver, Fingerprint::default()));
        }
        Effect::SyncPartial => {
            if let Some(held) = held {
                if let Phase::Sealed(_) = transfer.phase {
                    held.partial.seal()?;
                } else {
                    held.partial.sync()?;
                }
            }
        }
        // Over the folder that is open already, where there is one: descriptors may have run out.
        Effect::SyncFolder => match held {
            Some(held) => held.partial.sync_folder()?,
            None => store.sync_folder(client)?,
        },
        Effect::Publish => {
            if let (Some(held), Phase::Sealed(download)) = (held, &transfer.phase) {
                return held.partial.publish(&download.name);
            }
        }
        Effect::RemovePartial(generation) => match held.take() {
            Some(held) => held.partial.remove()?,
            None => store.remove_partial(client, *id, *generation)?,
        },
    }
    Ok(Published::Named)
}

/// Runs a job on the blocking pool. A panic in it is ours too.
pub(super) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(job).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
