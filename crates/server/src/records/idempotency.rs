//! The table `request_keys`: the `Idempotency-Key` of each request, and the transfer that the request
//! got. Several keys may belong to one transfer, so keys have their own table.

use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::digest::Digest;
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;

use super::audit::AuditEntry;
use super::change::Change;
use super::error::{RecordsError, SaveError};
use super::fields::RowFields;
use super::statement::{Row, Statement};
use super::{Records, transfer_row};

/// How long an idempotency key is kept.
pub(crate) const KEEP_KEYS: Duration = Duration::from_hours(24);

/// A key and the request that a caller sent with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    pub(crate) key: String,
    /// The digest of the request.
    pub(crate) request: Digest,
}

/// The transfer that belongs to a key, and the request that the key came with first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyOutcome {
    pub(crate) transfer: TransferId,
    /// The digest of the first request with this key.
    pub(crate) request: Digest,
}

const KEEP: &str = include_str!("keep_key.sql");

const FIND: &str = "SELECT * FROM request_keys WHERE id = $1 AND made_at >= $2";

impl Records {
    /// Saves a new transfer, the key of its request and its audit record, unless the key belongs to
    /// another transfer. All become durable or none does.
    ///
    /// # Errors
    /// [`SaveError::Lost`] if the key belongs to another transfer. Then nothing was written.
    pub(crate) async fn save_keyed(
        &self,
        transfer: &Transfer,
        key: &RequestKey,
        audit: Option<AuditEntry>,
    ) -> Result<(), SaveError> {
        let keep = keep(key, transfer.id, transfer.created_at);
        let change = Change::new(vec![keep, transfer_row::save(transfer)])
            .if_value("transfer", transfer.id.to_string())
            .audit(audit);
        let returned = self.writer.apply(change).await?;
        let holder = returned.as_ref().map(read).transpose()?;
        match holder {
            Some(holder) if holder.transfer == transfer.id => Ok(()),
            _ => Err(SaveError::Lost),
        }
    }

    /// Records that a key belongs to an unfinished transfer, unless it belongs to another one, and
    /// then an audit record. Returns the transfer that it belongs to. After an error both may be
    /// durable or not.
    pub(crate) async fn keep_key(
        &self,
        key: &RequestKey,
        transfer: TransferId,
        now: DateTime<Utc>,
        audit: Option<AuditEntry>,
    ) -> Result<KeyOutcome, RecordsError> {
        let change = Change::new(vec![keep(key, transfer, now)])
            .if_value("transfer", transfer.to_string())
            .audit(audit);
        let returned = self.writer.apply(change).await?;
        read(&returned.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
    }

    /// Returns the outcome of a key that is at most [`KEEP_KEYS`] old.
    pub(crate) async fn find_key(
        &self,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<KeyOutcome>, RecordsError> {
        let oldest = (now - KEEP_KEYS).timestamp_millis();
        let find = Statement::new(FIND).bind(key).bind(oldest);
        self.readers.point(find).await?.as_ref().map(read).transpose()
    }
}

/// Returns the statement that keeps a key, or replaces an expired one. It returns the row of the key.
fn keep(key: &RequestKey, transfer: TransferId, now: DateTime<Utc>) -> Statement {
    Statement::new(KEEP)
        .bind(key.key.clone())
        .bind(key.request.to_string())
        .bind(transfer.to_string())
        .bind(now.timestamp_millis())
        .bind((now - KEEP_KEYS).timestamp_millis())
}

fn read(row: &Row) -> Result<KeyOutcome, RecordsError> {
    let fields = RowFields::new("request key", row);
    let transfer = fields.parse("transfer", |text| TransferId::parse(text).ok())?;
    Ok(KeyOutcome { transfer, request: fields.parse("request", Digest::parse)? })
}
