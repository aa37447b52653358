//! The table `redemptions`, and the decision whether an invite puts a key on record.
//!
//! The decision, the key, the use of the invite and its history are one transaction. So an invite is
//! used exactly if a key is on record for it, whenever either end fails.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use filepull_core::audit::AuditAction;
use filepull_core::digest::Digest;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_core::invite::Invitee;
use filepull_core::problem::Code;

use super::Records;
use super::audit::Actor;
use super::client_keys::{client_of, hex, key_of};
use super::clients::{count, id_like};
use super::error::RecordsError;
use super::fields::RowFields;
use super::invites::{self, RecordedInvite};
use super::statement::Statement;
use super::transaction::Transaction;
use crate::client::AgentInfo;

const FIND: &str = "SELECT client AS id FROM redemptions WHERE invite = $1 AND fingerprint = $2";

const INSERT: &str = "INSERT INTO redemptions (invite, fingerprint, client, redeemed_at) \
     VALUES ($1, $2, $3, $4)";

const ENROL_KEY: &str = "INSERT INTO client_keys (client, fingerprint, next_fingerprint, pending, \
     labels, invite, enrolled_at, enrolled_from, rotated_at, pins) \
     VALUES ($1, $2, NULL, $3, $4, $5, $6, $7, $6, '[]') \
     ON CONFLICT (client) DO UPDATE SET fingerprint = excluded.fingerprint, \
         next_fingerprint = NULL, pending = excluded.pending, labels = excluded.labels, \
         invite = excluded.invite, enrolled_at = excluded.enrolled_at, \
         enrolled_from = excluded.enrolled_from, rotated_at = excluded.rotated_at, \
         pins = excluded.pins";

/// An enrolled client is known before it connects. A client that is known already keeps its row.
const ENROL_CLIENT: &str = "INSERT INTO clients (id, epoch, connected, agent_version, agent_os, \
     agent_arch, agent_hostname, shares, default_error, remote_addr, connected_at, last_seen_at) \
     VALUES ($1, 0, 0, $2, $3, $4, $5, '[]', $6, $7, 0, $8) ON CONFLICT (id) DO NOTHING";

/// What an agent presents to be enrolled.
#[derive(Clone, Debug)]
pub(crate) struct RedeemRequest {
    /// The digest of the secret.
    pub(crate) secret_hash: Digest,
    /// The key that the agent has proved to have.
    pub(crate) key: Fingerprint,
    /// The id that the agent wants.
    pub(crate) client: ClientId,
    pub(crate) agent: AgentInfo,
    pub(crate) remote_addr: SocketAddr,
}

/// A key that is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnrolledKey {
    /// True until an operator approves the client.
    pub(crate) pending: bool,
    /// The key was put on record by this redemption, not by an earlier one.
    pub(crate) is_new: bool,
    /// Another key of the client lost its place.
    pub(crate) replaced: Option<Fingerprint>,
}

/// Why a key is not put on record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RedeemRejection {
    #[error("this server has no such invite, or it was withdrawn: ask for a new one")]
    Unknown,
    #[error("the invite was used already, with another key: ask for a new one")]
    Used,
    #[error("the invite expired before it was used: ask for a new one")]
    Expired,
    #[error("the invite is for another client id")]
    OtherId,
    #[error("the key of this agent belongs to another client: start it with an empty state folder")]
    KeyTaken,
    #[error(
        "{0} has another key: ask for an invite that replaces it (filepull invite {0} --replace)"
    )]
    IdTaken(ClientId),
    #[error(
        "{client} differs from the known client {known} by letter case only: choose another id"
    )]
    Confusable { client: ClientId, known: ClientId },
    #[error("this server knows as many clients as it may (MAX_CLIENTS)")]
    TooMany,
}

type Redeemed = Result<EnrolledKey, RedeemRejection>;

impl Records {
    /// Puts the key of an agent on record, if an invite allows it. The same key may redeem its invite
    /// again and gets the same answer, also after the invite expired. After an error the key may be on
    /// record or not, and the agent tries again.
    pub(crate) async fn redeem(
        &self,
        request: RedeemRequest,
        max_clients: u64,
        now: DateTime<Utc>,
    ) -> Result<Redeemed, RecordsError> {
        if !self.has_invite(&request.secret_hash).await? {
            return Ok(Err(RedeemRejection::Unknown));
        }
        let redeem = move |transaction: &mut Transaction<'_>| {
            redeem(transaction, &request, max_clients, now)
        };
        self.writer.decide(redeem).await
    }
}

fn redeem(
    transaction: &mut Transaction<'_>,
    request: &RedeemRequest,
    max_clients: u64,
    now: DateTime<Utc>,
) -> Result<Redeemed, RecordsError> {
    let Some(invite) = invites::find(transaction, &request.secret_hash)? else {
        return Ok(Err(RedeemRejection::Unknown));
    };
    if let Some(earlier) = earlier(transaction, &invite, request)? {
        return Ok(earlier);
    }
    if let Some(rejection) = judge(transaction, &invite, request, max_clients, now)? {
        return Ok(Err(rejection));
    }
    enrol(transaction, &invite, request, now).map(Ok)
}

/// Returns the answer for a key that has used this invite before.
fn earlier(
    transaction: &mut Transaction<'_>,
    invite: &RecordedInvite,
    request: &RedeemRequest,
) -> Result<Option<Redeemed>, RecordsError> {
    let find = Statement::new(FIND).bind(invite.id.as_str()).bind(hex(&request.key));
    let Some(row) = transaction.first(&find)? else { return Ok(None) };
    let client =
        RowFields::new("redemption", &row).parse("id", |text| ClientId::parse(text).ok())?;
    if client != request.client {
        return Ok(Some(Err(RedeemRejection::OtherId)));
    }
    let key = key_of(transaction, &client)?;
    Ok(Some(match key {
        Some(key) if key.fingerprint == request.key || key.next == Some(request.key) => {
            Ok(EnrolledKey { pending: key.pending, is_new: false, replaced: None })
        }
        // The client has got another key since.
        Some(_) | None => Err(RedeemRejection::Used),
    }))
}

/// Returns why a key that is new to this invite is rejected.
fn judge(
    transaction: &mut Transaction<'_>,
    invite: &RecordedInvite,
    request: &RedeemRequest,
    max_clients: u64,
    now: DateTime<Utc>,
) -> Result<Option<RedeemRejection>, RecordsError> {
    let client = &request.client;
    let is_for_client = match &invite.invitee {
        Invitee::Client(invited) => invited == client,
        Invitee::Group(_) => true,
    };
    if invite.uses <= invite.used {
        return Ok(Some(RedeemRejection::Used));
    }
    if invite.expires_at <= now {
        return Ok(Some(RedeemRejection::Expired));
    }
    if !is_for_client {
        return Ok(Some(RedeemRejection::OtherId));
    }
    if client_of(transaction, &request.key)?.is_some_and(|owner| owner != *client) {
        return Ok(Some(RedeemRejection::KeyTaken));
    }
    let key = key_of(transaction, client)?;
    if key.is_some_and(|key| key.fingerprint != request.key && !invite.replace) {
        return Ok(Some(RedeemRejection::IdTaken(client.clone())));
    }
    match id_like(transaction, client)? {
        // A client of the time before invites: only an administrator who names it, or approves it, may
        // give its id to a key.
        Some(known) if known == *client => {
            let is_named = matches!(invite.invitee, Invitee::Client(_)) || invite.approve;
            Ok((!is_named).then(|| RedeemRejection::IdTaken(client.clone())))
        }
        Some(known) => Ok(Some(RedeemRejection::Confusable { client: client.clone(), known })),
        None => Ok((max_clients <= count(transaction)?).then_some(RedeemRejection::TooMany)),
    }
}

fn enrol(
    transaction: &mut Transaction<'_>,
    invite: &RecordedInvite,
    request: &RedeemRequest,
    now: DateTime<Utc>,
) -> Result<EnrolledKey, RecordsError> {
    let before = key_of(transaction, &request.client)?;
    // A client that was approved with this key stays approved.
    let had_key = before.as_ref().filter(|key| key.fingerprint == request.key);
    let pending = had_key.map_or(invite.approve, |key| key.pending && invite.approve);
    let replaced = before.map(|key| key.fingerprint).filter(|key| *key != request.key);
    let client = request.client.as_str();
    let at = now.timestamp_millis();
    invites::count_use(transaction, invite)?;
    let redemption = Statement::new(INSERT).bind(invite.id.as_str()).bind(hex(&request.key));
    transaction.run(&redemption.bind(client).bind(at))?;
    let key = Statement::new(ENROL_KEY)
        .bind(client)
        .bind(hex(&request.key))
        .bind(i64::from(pending))
        .bind(serde_json::json!(invite.labels).to_string())
        .bind(invite.id.as_str())
        .bind(at)
        .bind(request.remote_addr.ip().to_canonical().to_string());
    transaction.run(&key)?;
    let waits_for = if pending { Code::ClientPending } else { Code::ClientOffline };
    let known = Statement::new(ENROL_CLIENT)
        .bind(client)
        .bind(request.agent.version.as_str())
        .bind(request.agent.os.as_str())
        .bind(request.agent.arch.as_str())
        .bind(request.agent.hostname.as_str())
        .bind(waits_for.as_str())
        .bind(request.remote_addr.to_string())
        .bind(at);
    transaction.run(&known)?;
    let address = request.remote_addr.ip().to_canonical().to_string();
    let agent = Actor { name: client.to_owned(), address, request_id: None };
    let entry = agent
        .did(AuditAction::ClientEnrolled, client)
        .with("invite", invite.id.as_str())
        .with("fingerprint", request.key.to_string())
        .with("pending", pending);
    transaction.audit(&match replaced {
        Some(replaced) => entry.with("replaced", replaced.to_string()),
        None => entry,
    })?;
    Ok(EnrolledKey { pending, is_new: true, replaced })
}
