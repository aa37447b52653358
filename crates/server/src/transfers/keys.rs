//! A pull that comes again under the same key is the same pull.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use filepull_core::digest::Digest;
use filepull_core::problem::{Code, Problem};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::pull::{Pull, Pulled};
use super::{Transfers, now, records_failed};
use crate::records::RequestKey;

/// Requests with one key come one after the other. Keys that share a lock only wait for each
/// other's fsync.
const N_LOCKS: usize = 64;

/// The locks that keys share.
#[derive(Debug)]
pub(super) struct Keys([Arc<Mutex<()>>; N_LOCKS]);

/// A key in use: nobody else uses it until this is dropped.
#[derive(Debug)]
pub(super) struct HeldKey {
    pub(super) key: RequestKey,
    _lock: OwnedMutexGuard<()>,
}

impl Default for Keys {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }
}

impl Keys {
    async fn hold(&self, key: RequestKey) -> HeldKey {
        let mut hasher = DefaultHasher::new();
        key.key.hash(&mut hasher);
        let idx = usize::try_from(hasher.finish() % N_LOCKS as u64).unwrap_or(0);
        let lock = Arc::clone(&self.0[idx]).lock_owned().await;
        HeldKey { key, _lock: lock }
    }
}

/// Whether a key has been used before.
pub(super) enum Keyed {
    /// It leads to this transfer.
    Found(Pulled),
    /// It is new, and held.
    New(HeldKey),
}

impl Transfers {
    /// Looks for what a key leads to.
    pub(super) async fn keyed(&self, pull: &Pull, key: &str) -> Result<Keyed, Problem> {
        let key = RequestKey { key: key.to_owned(), request: digest(pull) };
        let held = self.shared.keys.hold(key).await;
        let RequestKey { key, request } = &held.key;
        let records = &self.shared.records;
        let known = records.keyed(key, now()).await.map_err(|error| records_failed(&error))?;
        match known {
            None => Ok(Keyed::New(held)),
            Some((_, asked)) if asked != *request => Err(mismatch()),
            Some((id, _)) => {
                let view = match self.watch(id) {
                    Some(view) => view,
                    // It has ended: nothing will change any more.
                    None => watch::channel(self.find(id).await?).1,
                };
                Ok(Keyed::Found(Pulled { id, joined: true, view }))
            }
        }
    }

    /// Makes a key lead to a transfer that was under way already.
    pub(super) async fn keep_key(&self, held: &HeldKey, pulled: &Pulled) -> Result<(), Problem> {
        let kept = self.shared.records.keep_key(&held.key, pulled.id, now()).await;
        kept.map_err(|error| records_failed(&error))
    }
}

/// The digest of what a pull asks for: not of who asks, nor of how long they wait for the answer.
fn digest(pull: &Pull) -> Digest {
    let Pull { client, path, queue, fresh, requested_by: _, request_id: _, key: _ } = pull;
    let path = path.as_ref().map(|path| path.as_str());
    let seconds = queue.map(|queue| queue.as_secs());
    Digest::of(format!("{:?}", (client.as_str(), path, seconds, fresh)).as_bytes())
}

fn mismatch() -> Problem {
    let detail = "This Idempotency-Key came before, with another request. Nothing was started.";
    Problem::new(Code::IdempotencyMismatch, detail)
}
