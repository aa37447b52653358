//! The table `client_keys`: which key stands for which client. Every session and every upload looks its
//! key up here, so that no other copy of a key can outlive the record.

use chrono::{DateTime, Utc};
use filepull_core::audit::AuditAction;
use filepull_core::digest::Digest;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_core::problem::Code;

use super::Records;
use super::audit::Actor;
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};
use super::transaction::Transaction;
use crate::client::ClientKey;

/// Current keys first: a key that is current and next at once cannot exist.
const BY_KEY: &str = "SELECT client AS id, * FROM client_keys WHERE fingerprint = $1 \
     UNION ALL SELECT client AS id, * FROM client_keys WHERE next_fingerprint = $1";

pub(crate) const OF_CLIENT: &str = "SELECT client AS id, * FROM client_keys WHERE client = $1";

const APPROVE: &str = "UPDATE client_keys SET pending = 0 WHERE client = $1";

const SHOW_APPROVED: &str =
    "UPDATE clients SET default_error = $2 WHERE id = $1 AND default_error = $3";

/// Replaces an earlier next key, whose answer its agent may not have received.
const SET_NEXT: &str = "UPDATE client_keys SET next_fingerprint = $3 \
     WHERE client = $1 AND (fingerprint = $2 OR next_fingerprint = $2) AND fingerprint <> $3 \
     AND NOT EXISTS (SELECT 1 FROM client_keys AS other WHERE other.client <> $1 \
         AND (other.fingerprint = $3 OR other.next_fingerprint = $3)) \
     RETURNING 1 AS n";

const PROMOTE: &str = "UPDATE client_keys SET fingerprint = next_fingerprint, \
     next_fingerprint = NULL, rotated_at = $3 WHERE client = $1 AND next_fingerprint = $2 \
     RETURNING client AS id, *";

const SET_PINS: &str = "UPDATE client_keys SET pins = $3 WHERE client = $1 \
     AND (fingerprint = $2 OR next_fingerprint = $2)";

const CANCEL_UNFINISHED: &str = "INSERT INTO cancels (transfer, detail) \
     SELECT id, $2 FROM transfers WHERE client = $1 \
         AND state NOT IN ('done', 'unchanged', 'failed', 'cancelled') \
     ON CONFLICT (transfer) DO NOTHING";

/// What `forget` removes. Downloads and the records of transfers stay, and so does the use of a group
/// invite: the removed key must not come back with it.
const FORGET: [&str; 3] = [
    "DELETE FROM redemptions WHERE invite IN (SELECT id FROM invites WHERE client = $1)",
    "DELETE FROM client_keys WHERE client = $1",
    "DELETE FROM invites WHERE client = $1",
];

const FORGET_CLIENT: &str = "DELETE FROM clients WHERE id = $1 RETURNING 1 AS n";

const WITH_PIN: &str = "SELECT \
     COUNT(CASE WHEN pins LIKE $1 THEN 1 END) AS n_with, COUNT(*) AS n \
     FROM client_keys WHERE pending = 0";

const WITHOUT_PIN: &str = "SELECT client AS id FROM client_keys \
     WHERE pending = 0 AND NOT pins LIKE $1 ORDER BY client LIMIT $2";

/// Which clients have stored a pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinHolders {
    /// How many enrolled clients have the pin.
    pub(crate) n_with: u64,
    /// How many enrolled clients do not have it.
    pub(crate) n_without: u64,
    /// The first of those, sorted.
    pub(crate) without: Vec<ClientId>,
}

impl Records {
    /// Returns the client of a key, current or next, and what is on record of the key.
    pub(crate) async fn client_of_key(
        &self,
        key: &Fingerprint,
    ) -> Result<Option<(ClientId, ClientKey)>, RecordsError> {
        let row = self.readers.point(Statement::new(BY_KEY).bind(hex(key))).await?;
        row.as_ref().map(read_with_client).transpose()
    }

    /// Returns the key of a client.
    pub(crate) async fn key_of_client(
        &self,
        client: &ClientId,
    ) -> Result<Option<ClientKey>, RecordsError> {
        let row = self.readers.point(Statement::new(OF_CLIENT).bind(client.as_str())).await?;
        row.as_ref().map(|row| read(&RowFields::new("key", row))).transpose()
    }

    /// Approves a pending client. Approving it again changes nothing. Returns none for a client that
    /// has no key.
    pub(crate) async fn approve_client(
        &self,
        client: &ClientId,
        by: &Actor,
    ) -> Result<Option<ClientKey>, RecordsError> {
        let client = client.clone();
        let by = by.clone();
        let approve = move |transaction: &mut Transaction<'_>| {
            let Some(key) = key_of(transaction, &client)? else { return Ok(None) };
            if key.pending {
                transaction.run(&Statement::new(APPROVE).bind(client.as_str()))?;
                transaction.run(&show_approved(&client))?;
                let entry = by.did(AuditAction::ClientApproved, client.as_str());
                transaction.audit(&entry.with("fingerprint", key.fingerprint.to_string()))?;
            }
            Ok(Some(ClientKey { pending: false, ..key }))
        };
        self.writer.decide(approve).await
    }

    /// Records that an operator requested a new key of a client.
    pub(crate) async fn rotation_requested(
        &self,
        client: &ClientId,
        by: &Actor,
    ) -> Result<(), RecordsError> {
        self.audit(by.did(AuditAction::KeyRotationRequested, client.as_str())).await
    }

    /// Records the next key of a client, whose session was opened with `key`. From then on both
    /// admit the client. Returns false if `key` is not on record any more, or if `next` is the current
    /// key or belongs to another client.
    pub(crate) async fn set_next_key(
        &self,
        client: &ClientId,
        key: &Fingerprint,
        next: &Fingerprint,
    ) -> Result<bool, RecordsError> {
        let set = Statement::new(SET_NEXT).bind(client.as_str()).bind(hex(key)).bind(hex(next));
        Ok(self.writer.write(set).await?.is_some())
    }

    /// Records the pins that the agent of a client has stored.
    pub(crate) async fn set_pins(
        &self,
        client: &ClientId,
        key: &Fingerprint,
        pins: &[Fingerprint],
    ) -> Result<(), RecordsError> {
        let set = Statement::new(SET_PINS).bind(client.as_str()).bind(hex(key));
        self.writer.write(set.bind(pins_to_text(pins))).await.map(drop)
    }

    /// Returns which enrolled clients have stored a pin, and the first `limit` clients that have not.
    pub(crate) async fn pin_holders(
        &self,
        pin: &Fingerprint,
        limit: u32,
    ) -> Result<PinHolders, RecordsError> {
        let holds = format!("%{}%", hex(pin));
        let count = Statement::new(WITH_PIN).bind(holds.as_str());
        let without = Statement::new(WITHOUT_PIN).bind(holds).bind(limit);
        let mut rows = self.readers.each(vec![count, without]).await?.into_iter();
        let count = rows.next();
        let number = |name| count.as_ref().and_then(|row| row.integer(name)).unwrap_or_default();
        let n_with = number("n_with").cast_unsigned();
        let n_without = number("n").cast_unsigned().saturating_sub(n_with);
        let without = rows.filter_map(|row| self.readable(read_id(&row))).collect();
        Ok(PinHolders { n_with, n_without, without })
    }

    /// Removes a client with its key and its invites, and records a cancel for each of its unfinished
    /// transfers. Returns whether the client was known.
    pub(crate) async fn forget_client(
        &self,
        client: &ClientId,
        cancel_detail: &str,
        by: &Actor,
    ) -> Result<bool, RecordsError> {
        let client = client.clone();
        let entry = by.did(AuditAction::ClientForgotten, client.as_str());
        let detail = cancel_detail.to_owned();
        let forget = move |transaction: &mut Transaction<'_>| {
            let of_client = |sql| Statement::new(sql).bind(client.as_str());
            let is_known = transaction.first(&of_client(FORGET_CLIENT))?.is_some();
            for sql in FORGET {
                transaction.run(&of_client(sql))?;
            }
            transaction.run(&of_client(CANCEL_UNFINISHED).bind(detail.as_str()))?;
            if is_known {
                transaction.audit(&entry)?;
            }
            Ok(is_known)
        };
        self.writer.decide(forget).await
    }
}

/// Returns the statement that shows an approved client as offline instead of pending.
fn show_approved(client: &ClientId) -> Statement {
    Statement::new(SHOW_APPROVED)
        .bind(client.as_str())
        .bind(Code::ClientOffline.as_str())
        .bind(Code::ClientPending.as_str())
}

/// Makes the next key of a client its current key. Returns none if the client has no such next key.
pub(crate) fn promote(
    transaction: &mut Transaction<'_>,
    client: &ClientId,
    next: &Fingerprint,
    now: DateTime<Utc>,
) -> Result<Option<ClientKey>, RecordsError> {
    let promote = Statement::new(PROMOTE).bind(client.as_str()).bind(hex(next));
    let row = transaction.first(&promote.bind(now.timestamp_millis()))?;
    row.as_ref().map(|row| read(&RowFields::new("key", row))).transpose()
}

/// Returns the key of a client inside a transaction.
pub(crate) fn key_of(
    transaction: &mut Transaction<'_>,
    client: &ClientId,
) -> Result<Option<ClientKey>, RecordsError> {
    let row = transaction.first(&Statement::new(OF_CLIENT).bind(client.as_str()))?;
    row.as_ref().map(|row| read(&RowFields::new("key", row))).transpose()
}

/// Returns the client of a key inside a transaction.
pub(crate) fn client_of(
    transaction: &mut Transaction<'_>,
    key: &Fingerprint,
) -> Result<Option<ClientId>, RecordsError> {
    let row = transaction.first(&Statement::new(BY_KEY).bind(hex(key)))?;
    row.as_ref().map(read_id).transpose()
}

/// Returns a fingerprint as the records have it.
pub(crate) fn hex(key: &Fingerprint) -> String {
    key.digest().to_string()
}

fn pins_to_text(pins: &[Fingerprint]) -> String {
    serde_json::json!(pins.iter().map(hex).collect::<Vec<_>>()).to_string()
}

fn read_id(row: &Row) -> Result<ClientId, RecordsError> {
    RowFields::new("key", row).parse("id", |text| ClientId::parse(text).ok())
}

fn read_with_client(row: &Row) -> Result<(ClientId, ClientKey), RecordsError> {
    Ok((read_id(row)?, read(&RowFields::new("key", row))?))
}

/// Reads the columns of a key. They may be part of a wider row.
pub(crate) fn read(fields: &RowFields<'_>) -> Result<ClientKey, RecordsError> {
    let key = |text: &str| Digest::parse(text).map(Fingerprint::from);
    let next = fields.text_if_any("next_fingerprint")?;
    let pins = |text: &str| -> Option<Vec<Fingerprint>> {
        serde_json::from_str::<Vec<String>>(text).ok()?.iter().map(|pin| key(pin)).collect()
    };
    Ok(ClientKey {
        fingerprint: fields.parse("fingerprint", key)?,
        next: next.map(|_| fields.parse("next_fingerprint", key)).transpose()?,
        pending: fields.integer("pending")? != 0,
        labels: fields.parse("labels", |text| serde_json::from_str(text).ok())?,
        enrolled_at: fields.time("enrolled_at")?,
        rotated_at: fields.time("rotated_at")?,
        pins: fields.parse("pins", pins)?,
    })
}
