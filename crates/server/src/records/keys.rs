//! Keys that callers gave to their requests, so that a repeated one finds what the first one made.
//!
//! A table of its own: several keys may have found one transfer under way, and each of them goes on
//! to lead to it.

use chrono::{DateTime, Utc};
use filepull_core::digest::Digest;
use filepull_core::id::TransferId;

use super::RecordsError;
use super::fields::Fields;
use super::readers::Readers;
use super::statement::Statement;

/// What a caller called a request, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, as the caller chose it.
    pub key: String,
    /// The digest of what was asked for.
    pub request: Digest,
}

/// The first one to keep a key has it, until its day is over.
const KEEP: &str = "INSERT INTO request_keys (id, request, transfer, made_at) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET \
     request = excluded.request, transfer = excluded.transfer, made_at = excluded.made_at \
     WHERE request_keys.made_at < $5";

const FIND: &str = "SELECT * FROM request_keys WHERE id = $1 AND made_at >= $2";

/// The statement that keeps a key, in the place of one from before `since`.
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

/// The transfer that a key leads to, and the digest of what was asked for then.
pub(super) async fn find(
    readers: &Readers,
    key: &str,
    since: DateTime<Utc>,
) -> Result<Option<(TransferId, Digest)>, RecordsError> {
    let find = Statement::new(FIND).bind(key).bind(since.timestamp_millis());
    let Some(row) = readers.point(find).await? else { return Ok(None) };
    let fields = Fields::new("request key", &row);
    let transfer = fields.parse("transfer", |text| TransferId::parse(text).ok())?;
    Ok(Some((transfer, fields.parse("request", Digest::parse)?)))
}
