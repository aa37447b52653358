//! Idempotency keys: a repeated request gets the original transfer.
//!
//! Several requests may have the same key at once. The record decides which transfer the key leads
//! to. The transfer of each other request is discarded before any caller learns of it.

use filepull_core::problem::{Code, Problem};
use tokio::sync::watch;

use super::pull::PullResult;
use super::{Transfers, now, records_failed};
use crate::records::{AuditEntry, KeyOutcome, RequestKey};
use crate::scope::Scope;

impl Transfers {
    /// Returns the transfer of an earlier request with this key, if there was one.
    pub(crate) async fn keyed(&self, key: &RequestKey) -> Result<Option<PullResult>, Problem> {
        let found = self.context.records.find_key(&key.key, now()).await;
        match found.map_err(|error| records_failed(&error))? {
            None => Ok(None),
            Some(keyed) => self.transfer_of(key, keyed).await.map(Some),
        }
    }

    /// Records that a key leads to an active transfer, together with the audit record. Returns the
    /// transfer that the key leads to: another request with this key may have been first.
    pub(crate) async fn keep_key(
        &self,
        key: &RequestKey,
        pulled: PullResult,
        entry: AuditEntry,
    ) -> Result<PullResult, Problem> {
        let kept = self.context.records.keep_key(key, pulled.id, now(), Some(entry.clone())).await;
        let keyed = kept.map_err(|error| records_failed(&error))?;
        if keyed.transfer == pulled.id && keyed.request == key.request {
            Ok(pulled)
        } else {
            let other = self.transfer_of(key, keyed).await?;
            self.audit(entry.with("transfer", other.id.to_string())).await?;
            Ok(other)
        }
    }

    async fn transfer_of(
        &self,
        key: &RequestKey,
        keyed: KeyOutcome,
    ) -> Result<PullResult, Problem> {
        if keyed.request != key.request {
            return Err(mismatch());
        }
        let id = keyed.transfer;
        let view = match self.watch(id) {
            Some(view) => view,
            // The client is in scope: it is the client of the pull. The transfer has ended, so its view does not change any more.
            None => watch::channel(self.find(id, &Scope::Everything).await?).1,
        };
        Ok(PullResult { id, joined: true, view })
    }
}

fn mismatch() -> Problem {
    let detail = "This Idempotency-Key came before, with another request. Nothing was started.";
    Problem::new(Code::IdempotencyMismatch, detail)
}
