//! Keys that callers gave to their requests, so that a repeated one finds what the first one made.
//!
//! A table of its own: several keys may have found one transfer under way, and each of them goes on
//! to lead to it.

use chrono::{DateTime, Utc};
use filepull_core::digest::Digest;
use filepull_core::id::TransferId;

use super::RecordsError;
use super::fields::RowFields;
use super::readers::Readers;
use super::statement::{Row, Statement};

/// What a caller called a request, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, as the caller chose it.
    pub key: String,
    /// The digest of what was asked for.
    pub request: Digest,
}

/// The first one to keep a key has it, until its day is over.
const KEEP: &str = include_str!("keep_key.sql");

const FIND: &str = "SELECT * FROM request_keys WHERE id = $1 AND made_at >= $2";

/// Where a key leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyOutcome {
    /// The transfer.
    pub transfer: TransferId,
    /// The digest of what the first request with this key asked for.
    pub request: Digest,
}

/// The statement that keeps a key, in the place of one from before `since`. It returns where the key
/// leads now.
pub(super) fn keep(
    key: &RequestKey,
    transfer: TransferId,
    made_at: DateTime<Utc>,
    since: DateTime<Utc>,
) -> Statement {
    Statement::new(KEEP)
        .bind(key.key.clone())
        .bind(key.request.to_string())
        .bind(transfer.to_string())
        .bind(made_at.timestamp_millis())
        .bind(since.timestamp_millis())
}

/// Where a key leads.
pub(super) async fn find(
    readers: &Readers,
    key: &str,
    since: DateTime<Utc>,
) -> Result<Option<KeyOutcome>, RecordsError> {
    let find = Statement::new(FIND).bind(key).bind(since.timestamp_millis());
    readers.point(find).await?.as_ref().map(read).transpose()
}

/// Reads a row that says where a key leads.
pub(super) fn read(row: &Row) -> Result<KeyOutcome, RecordsError> {
    let fields = RowFields::new("request key", row);
    let transfer = fields.parse("transfer", |text| TransferId::parse(text).ok())?;
    Ok(KeyOutcome { transfer, request: fields.parse("request", Digest::parse)? })
}
