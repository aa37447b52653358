//! A pull that comes again under the same key is the same pull.

//!
//! Requests with one key may come at once: the record decides which of them has it. The transfer of
//! another one is discarded before anything else knows it.

use filepull_core::digest::Digest;
use filepull_core::problem::{Code, Problem};
use tokio::sync::watch;

use super::pull::{Pull, PullResult};
use super::{Transfers, now, records_failed};
use crate::records::{KeyOutcome, RequestKey};

/// The key of a pull, if it has one.
pub(crate) fn request_key(pull: &Pull) -> Option<RequestKey> {
    let key = pull.key.clone()?;
    Some(RequestKey { key, request: digest(pull) })
}

impl Transfers {
    /// The transfer that a key leads to, if a request had it before.
    pub(crate) async fn keyed(&self, key: &RequestKey) -> Result<Option<PullResult>, Problem> {
        let known = self.context.records.find_key(&key.key, now()).await;
        match known.map_err(|error| records_failed(&error))? {
            None => Ok(None),
            Some(keyed) => self.led(key, keyed).await.map(Some),
        }
    }

    /// Makes a key lead to a transfer that was under way already. Returns the transfer to which the
    /// key leads then: another request with this key may have been first.
    pub(crate) async fn keep_key(
        &self,
        key: &RequestKey,
        pulled: PullResult,
    ) -> Result<PullResult, Problem> {
        let kept = self.context.records.keep_key(key, pulled.id, now()).await;
        let keyed = kept.map_err(|error| records_failed(&error))?;
        if keyed.transfer == pulled.id && keyed.request == key.request {
            Ok(pulled)
        } else {
            self.led(key, keyed).await
        }
    }

    async fn led(&self, key: &RequestKey, keyed: KeyOutcome) -> Result<PullResult, Problem> {
        if keyed.request != key.request {
            return Err(mismatch());
        }
        let id = keyed.transfer;
        let view = match self.watch(id) {
            Some(view) => view,
            // The transfer has ended, so its view does not change any more.
            None => watch::channel(self.find(id).await?).1,
        };
        Ok(PullResult { id, joined: true, view })
    }
}

/// Returns the digest of what a pull requests, without its caller and the time that it waits.
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
