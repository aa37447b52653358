//! The table `invites`: what an administrator promised, and how much of it is used. The secret of an
//! invite is not stored, only its hash.

use chrono::{DateTime, TimeDelta, Utc};
use filepull_core::audit::AuditAction;
use filepull_core::digest::Digest;
use filepull_core::id::ClientId;
use filepull_core::invite::{GroupName, Invitee};
use uuid::Uuid;

use super::Records;
use super::audit::{Actor, AuditEntry};
use super::client_keys::key_of;
use super::clients::{count, id_like};
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};
use super::transaction::Transaction;
use crate::client::Labels;

/// How long an invite stays on record after its expiry. Until then the agent that used it may ask for
/// its answer again.
const KEEP_EXPIRED: TimeDelta = TimeDelta::days(30);

const INSERT: &str = "INSERT INTO invites (id, secret_hash, client, group_name, uses, used, approve, \
     replace_key, labels, created_at, created_by, expires_at) \
     VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9, $10, $11)";

const REMOVE_OLD: [&str; 2] = [
    "DELETE FROM redemptions WHERE invite IN (SELECT id FROM invites WHERE expires_at < $1)",
    "DELETE FROM invites WHERE expires_at < $1",
];

const BY_SECRET: &str = "SELECT * FROM invites WHERE secret_hash = $1";

const USE: &str = "UPDATE invites SET used = used + 1 WHERE id = $1";

/// An invite that is recorded. Its secret is in the text that the administrator gets.
#[derive(Clone, Debug)]
pub(crate) struct NewInvite {
    pub(crate) id: Uuid,
    /// The digest of the secret.
    pub(crate) secret_hash: Digest,
    pub(crate) invitee: Invitee,
    /// How many clients it may enrol: 1 unless it is for a group.
    pub(crate) uses: u32,
    /// Its clients are pending until they are approved.
    pub(crate) approve: bool,
    /// It may replace the key of its client.
    pub(crate) replace: bool,
    pub(crate) labels: Labels,
    pub(crate) created_at: DateTime<Utc>,
    /// Until when a new key is accepted.
    pub(crate) expires_at: DateTime<Utc>,
}

/// An invite on record.
#[derive(Clone, Debug)]
pub(crate) struct RecordedInvite {
    pub(crate) id: String,
    pub(crate) invitee: Invitee,
    pub(crate) uses: u32,
    pub(crate) used: u32,
    pub(crate) approve: bool,
    pub(crate) replace: bool,
    pub(crate) labels: Labels,
    pub(crate) expires_at: DateTime<Utc>,
}

/// Why no invite was recorded. All of a list are recorded, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InviteRejection {
    /// The client has a key, and the invite does not replace it.
    Exists(ClientId),
    /// The client is new, and its id differs from this known id by letter case only.
    Confusable { client: ClientId, known: ClientId },
    /// The server would know too many clients.
    TooMany,
}

impl Records {
    /// Records invites, all or none, and removes invites that expired long ago.
    pub(crate) async fn create_invites(
        &self,
        invites: Vec<NewInvite>,
        max_clients: u64,
        by: &Actor,
        now: DateTime<Utc>,
    ) -> Result<Result<(), InviteRejection>, RecordsError> {
        let by = by.clone();
        let create = move |transaction: &mut Transaction<'_>| {
            let mut n_clients = count(transaction)?;
            for invite in &invites {
                let (rejection, is_new) = judge(transaction, invite)?;
                if let Some(rejection) = rejection {
                    return Ok(Err(rejection));
                }
                n_clients += u64::from(is_new);
            }
            if max_clients < n_clients {
                return Ok(Err(InviteRejection::TooMany));
            }
            let oldest = (now - KEEP_EXPIRED).timestamp_millis();
            for sql in REMOVE_OLD {
                transaction.run(&Statement::new(sql).bind(oldest))?;
            }
            for invite in &invites {
                transaction.run(&insert(invite, &by))?;
                transaction.audit(&entry(invite, &by))?;
            }
            Ok(Ok(()))
        };
        self.writer.decide(create).await
    }

    /// Returns whether there is an invite with this secret. Read before an invite is redeemed, so that
    /// a stranger who guesses costs no write.
    pub(crate) async fn has_invite(&self, secret_hash: &Digest) -> Result<bool, RecordsError> {
        Ok(self.readers.point(by_secret(secret_hash)).await?.is_some())
    }
}

/// Returns why an invite must not be made, and whether its client is new.
fn judge(
    transaction: &mut Transaction<'_>,
    invite: &NewInvite,
) -> Result<(Option<InviteRejection>, bool), RecordsError> {
    let Invitee::Client(client) = &invite.invitee else { return Ok((None, false)) };
    let has_key = key_of(transaction, client)?.is_some();
    if has_key && !invite.replace {
        return Ok((Some(InviteRejection::Exists(client.clone())), false));
    }
    match id_like(transaction, client)? {
        Some(known) if known == *client => Ok((None, false)),
        Some(known) => {
            let client = client.clone();
            Ok((Some(InviteRejection::Confusable { client, known }), true))
        }
        None => Ok((None, true)),
    }
}

/// Finds an invite by its secret, inside a transaction.
pub(crate) fn find(
    transaction: &mut Transaction<'_>,
    secret_hash: &Digest,
) -> Result<Option<RecordedInvite>, RecordsError> {
    transaction.first(&by_secret(secret_hash))?.as_ref().map(read).transpose()
}

/// Counts a use of an invite.
pub(crate) fn count_use(
    transaction: &mut Transaction<'_>,
    invite: &RecordedInvite,
) -> Result<(), RecordsError> {
    transaction.run(&Statement::new(USE).bind(invite.id.as_str()))
}

fn by_secret(secret_hash: &Digest) -> Statement {
    Statement::new(BY_SECRET).bind(secret_hash.to_string())
}

/// Returns what the audit says of a new invite.
fn entry(invite: &NewInvite, by: &Actor) -> AuditEntry {
    let subject = match &invite.invitee {
        Invitee::Client(client) => client.as_str(),
        Invitee::Group(group) => group.as_str(),
    };
    by.did(AuditAction::InviteCreated, subject)
        .with("invite", invite.id.to_string())
        .with("uses", invite.uses)
        .with("approve", invite.approve)
        .with("replace", invite.replace)
        .with("expires_at", invite.expires_at.timestamp_millis())
}

fn insert(invite: &NewInvite, by: &Actor) -> Statement {
    let (client, group) = match &invite.invitee {
        Invitee::Client(client) => (Some(client.to_string()), None),
        Invitee::Group(group) => (None, Some(group.to_string())),
    };
    Statement::new(INSERT)
        .bind(invite.id.to_string())
        .bind(invite.secret_hash.to_string())
        .bind(client)
        .bind(group)
        .bind(invite.uses)
        .bind(i64::from(invite.approve))
        .bind(i64::from(invite.replace))
        .bind(serde_json::json!(invite.labels).to_string())
        .bind(invite.created_at.timestamp_millis())
        .bind(by.name.as_str())
        .bind(invite.expires_at.timestamp_millis())
}

fn read(row: &Row) -> Result<RecordedInvite, RecordsError> {
    let fields = RowFields::new("invite", row);
    let invitee = match fields.text_if_any("client")? {
        Some(_) => Invitee::Client(fields.parse("client", |text| ClientId::parse(text).ok())?),
        None => Invitee::Group(fields.parse("group_name", GroupName::parse)?),
    };
    Ok(RecordedInvite {
        id: fields.text("id")?.to_owned(),
        invitee,
        uses: fields.count("uses")?,
        used: fields.count("used")?,
        approve: fields.integer("approve")? != 0,
        replace: fields.integer("replace_key")? != 0,
        labels: fields.parse("labels", |text| serde_json::from_str(text).ok())?,
        expires_at: fields.time("expires_at")?,
    })
}
