//! The table `clients`: one row per client, from its enrolment or its first session on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::audit::AuditAction;
use filepull_core::id::ClientId;
use filepull_core::problem::Code;
use rusqlite::Connection;
use tokio::time::timeout;

use super::Records;
use super::audit::Actor;
use super::client_keys::{self, key_of, promote};
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};
use super::transaction::Transaction;
use super::transfer_row::bind_source;
use crate::client::{
    AgentInfo, ClientRecord, DefaultFile, Disconnect, DisconnectReason, Greeting, OnRecord,
};

const CONNECTED: &str = include_str!("connected.sql");

/// The column `connected` of a client that is offline.
const OFFLINE: i64 = 0;
// 1: the session is open, or was open when the server was killed.
/// The server closed the session because the server stopped.
const LEFT_BY_SERVER: i64 = 2;
/// The client was connected when the previous server ended, and has not connected since.
const ONLINE_BEFORE: i64 = 3;

const LEFT: &str = "UPDATE clients SET connected = $11, last_seen_at = $3, \
     disconnected_at = $4, disconnect_reason = $5, disconnect_detail = $6, \
     default_name = $7, default_size = $8, default_modified_ns = $9, default_error = $10 \
     WHERE id = $1 AND epoch = $2";

/// Changes only clients that were online when one of the last two servers ended. The values of
/// `connected` are the constants above.
pub(crate) const MARK_DISCONNECTED: &str = "UPDATE clients SET \
     connected = CASE connected WHEN 3 THEN 0 ELSE 3 END, \
     disconnected_at = CASE connected WHEN 1 THEN $1 ELSE disconnected_at END, \
     disconnect_reason = CASE connected WHEN 1 THEN $2 ELSE disconnect_reason END, \
     disconnect_detail = CASE connected WHEN 1 THEN $3 ELSE disconnect_detail END \
     WHERE connected <> 0";

/// The columns of a client, and of its key if it has one.
const WITH_KEY: &str = "SELECT * FROM clients LEFT JOIN client_keys ON client = id WHERE id ";

const ONE: &str = "SELECT * FROM clients LEFT JOIN client_keys ON client = id WHERE id = $1";

const COUNT: &str = "SELECT COUNT(*) AS n FROM clients";

/// The id itself first.
const LIKE: &str = "SELECT id FROM clients WHERE lower(id) = lower($1) \
     ORDER BY CASE id WHEN $1 THEN 0 ELSE 1 END LIMIT 1";

/// How long a page waits for the number of clients. After that it shows the last count.
const COUNT_LIMIT: Duration = Duration::from_secs(1);

/// The outcome of recording a greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one for each new session, which is moved once")]
pub enum ConnectOutcome {
    /// The client has a new session.
    Accepted(OnRecord),
    /// The client is new, and its id differs from this known id by letter case only.
    Confusable(ClientId),
    /// The client is new, and the server knows as many clients as it may.
    TooManyClients,
    /// The key of the agent does not admit it: the client has another key, or none on record.
    KeyRejected,
}

impl Records {
    /// Records a new session of a client and returns its epoch. The key of the agent is checked in the
    /// same transaction, so that it cannot be removed in between; the first session with the next key
    /// makes it the current one. An agent without a key is admitted if its client has none.
    ///
    /// # Errors
    /// The epoch may not be durable and must not be used.
    pub async fn client_connected(
        &self,
        greeting: &Greeting,
        max_clients: u64,
        now: DateTime<Utc>,
    ) -> Result<ConnectOutcome, RecordsError> {
        let client = greeting.client.clone();
        let key = greeting.key;
        let address = greeting.remote_addr.ip().to_canonical().to_string();
        let connected = connected(greeting, max_clients, now);
        let connect = move |transaction: &mut Transaction<'_>| {
            let on_record = key_of(transaction, &client)?;
            let is_admitted = match (&on_record, &key) {
                (Some(on_record), Some(key)) => on_record.admits(key),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !is_admitted {
                return Ok(Err(ConnectOutcome::KeyRejected));
            }
            let Some(row) = transaction.first(&connected)? else {
                let like = id_like(transaction, &client)?;
                return Ok(Err(
                    like.map_or(ConnectOutcome::TooManyClients, ConnectOutcome::Confusable)
                ));
            };
            let promoted = match key {
                Some(key) => promote(transaction, &client, &key, now)?,
                None => None,
            };
            let key_changed = promoted.is_some();
            if key_changed {
                let agent =
                    Actor { name: client.to_string(), address: address.clone(), request_id: None };
                transaction.audit(&agent.did(AuditAction::KeyRotated, client.as_str()))?;
            }
            Ok(Ok((row, promoted.or(on_record), key_changed)))
        };
        match self.writer.decide(connect).await? {
            Ok((row, key, key_changed)) => {
                let fields = RowFields::new("client", &row);
                let last_disconnect = self.readable(read_disconnect(&fields)).flatten();
                let epoch = fields.unsigned("epoch")?;
                let on_record = OnRecord { epoch, last_disconnect, key, key_changed };
                Ok(ConnectOutcome::Accepted(on_record))
            }
            Err(outcome) => Ok(outcome),
        }
    }

    /// Records how a session ended, unless a newer session is open. After an error this may be
    /// durable or not.
    pub(crate) async fn client_left(&self, left: &ClientRecord) -> Result<(), RecordsError> {
        self.writer.write(disconnected(left)).await.map(drop)
    }

    /// Returns a client by its id.
    ///
    /// # Errors
    /// The record cannot be read.
    pub async fn client(&self, id: &ClientId) -> Result<Option<ClientRecord>, RecordsError> {
        let row = self.readers.point(Statement::new(ONE).bind(id.as_str())).await?;
        row.as_ref().map(read).transpose()
    }

    /// Returns the number of clients, or the last count if the database does not answer in time.
    pub async fn n_clients(&self) -> u64 {
        // The query scans the smallest index: 100,000 clients take less than a millisecond.
        let counting = self.readers.point(Statement::new(COUNT));
        if let Ok(Ok(Some(row))) = timeout(COUNT_LIMIT, counting).await {
            self.n_clients.store(read_count(&row), Ordering::Relaxed);
        }
        self.n_clients.load(Ordering::Relaxed)
    }

    /// Returns the clients that are on record and can be read, in any order.
    pub(crate) async fn clients(
        &self,
        ids: &[ClientId],
    ) -> Result<Vec<ClientRecord>, RecordsError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = Statement::new(WITH_KEY);
        query.push("IN (").push_list(ids.iter().map(ClientId::as_str)).push(")");
        let rows = self.readers.list(query).await?;
        Ok(rows.iter().filter_map(|row| self.readable(read(row))).collect())
    }
}

/// Returns the statement that records a greeting. It returns a row unless the client is new, and its id
/// is confusable or there are too many clients.
fn connected(greeting: &Greeting, max_clients: u64, now: DateTime<Utc>) -> Statement {
    let agent = greeting.agent.clone();
    let shares = serde_json::json!(greeting.shares).to_string();
    let statement = Statement::new(CONNECTED)
        .bind(greeting.client.to_string())
        .bind(agent.version)
        .bind(agent.os)
        .bind(agent.arch)
        .bind(agent.hostname)
        .bind(shares);
    bind_source(greeting.default_file.as_ref().ok(), statement)
        .bind(greeting.remote_addr.to_string())
        .bind(now.timestamp_millis())
        .bind(greeting.default_file.as_ref().err().map(|code| code.as_str().to_owned()))
        .bind(i64::try_from(max_clients).unwrap_or(i64::MAX))
}

/// Returns the known id that differs from `id` by letter case at most, inside a transaction.
pub(crate) fn id_like(
    transaction: &mut Transaction<'_>,
    id: &ClientId,
) -> Result<Option<ClientId>, RecordsError> {
    transaction.first(&Statement::new(LIKE).bind(id.as_str()))?.as_ref().map(read_id).transpose()
}

/// Returns the number of clients, inside a transaction.
pub(crate) fn count(transaction: &mut Transaction<'_>) -> Result<u64, RecordsError> {
    Ok(transaction.first(&Statement::new(COUNT))?.as_ref().map_or(0, read_count))
}

/// Returns the statement that records the end of a session. It changes nothing if a newer session is
/// open.
fn disconnected(left: &ClientRecord) -> Statement {
    let disconnect = left.last_disconnect.as_ref();
    let by_server = disconnect.is_some_and(|last| last.reason == DisconnectReason::ServerRestart);
    let statement = Statement::new(LEFT)
        .bind(left.id.to_string())
        .bind(left.epoch.cast_signed())
        .bind(left.last_seen_at.timestamp_millis())
        .bind(disconnect.map(|disconnect| disconnect.at.timestamp_millis()))
        .bind(disconnect.map(|disconnect| disconnect.reason.as_str().to_owned()))
        .bind(disconnect.map(|disconnect| disconnect.detail.clone()));
    bind_source(left.default_file.as_ref().ok(), statement)
        .bind(left.default_file.as_ref().err().map(|code| code.as_str().to_owned()))
        .bind(if by_server { LEFT_BY_SERVER } else { OFFLINE })
}

/// Records for every client that was connected when the last server ended that it is disconnected.
pub(crate) fn mark_disconnected(
    connection: &Connection,
    now: DateTime<Utc>,
) -> rusqlite::Result<()> {
    // `last_seen_at` may be days older than the end of the session, so `now` is more accurate.
    let mark = Statement::new(MARK_DISCONNECTED)
        .bind(now.timestamp_millis())
        .bind(DisconnectReason::ServerRestart.as_str())
        .bind("the server was started again; the one before it had this client connected");
    mark.run(connection).map(drop)
}

/// Counts the clients at the start, before there are readers.
pub(crate) fn count_now(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(Statement::new(COUNT).run(connection)?.first().map_or(0, read_count))
}

fn read_count(row: &Row) -> u64 {
    row.integer("n").unwrap_or_default().cast_unsigned()
}

/// Reads the id of a client.
pub(crate) fn read_id(row: &Row) -> Result<ClientId, RecordsError> {
    RowFields::new("client", row).parse("id", |text| ClientId::parse(text).ok())
}

fn read(row: &Row) -> Result<ClientRecord, RecordsError> {
    let fields = RowFields::new("client", row);
    Ok(ClientRecord {
        id: read_id(row)?,
        epoch: fields.unsigned("epoch")?,
        agent: AgentInfo {
            version: fields.text("agent_version")?.to_owned(),
            os: fields.text("agent_os")?.to_owned(),
            arch: fields.text("agent_arch")?.to_owned(),
            hostname: fields.text("agent_hostname")?.to_owned(),
        },
        shares: fields.parse("shares", |text| serde_json::from_str(text).ok())?,
        default_file: read_default_file(&fields)?,
        remote_addr: fields.parse("remote_addr", |text| text.parse().ok())?,
        // 0 in the row of a client that was enrolled and has never connected.
        connected_at: Some(fields.time("connected_at")?).filter(|at| *at != DateTime::UNIX_EPOCH),
        last_seen_at: fields.time("last_seen_at")?,
        last_disconnect: read_disconnect(&fields)?,
        online_before: fields.integer("connected")? == ONLINE_BEFORE,
        key: match fields.text_if_any("client")? {
            Some(_) => Some(client_keys::read(&fields)?),
            None => None,
        },
    })
}

fn read_default_file(fields: &RowFields<'_>) -> Result<DefaultFile, RecordsError> {
    match fields.text_if_any("default_error")? {
        Some(_) => Ok(Err(fields.parse("default_error", Code::parse)?)),
        None => fields.source(["default_name", "default_size", "default_modified_ns"]).map(Ok),
    }
}

fn read_disconnect(fields: &RowFields<'_>) -> Result<Option<Disconnect>, RecordsError> {
    let Some(at) = fields.time_if_any("disconnected_at")? else { return Ok(None) };
    let reason = fields.parse("disconnect_reason", DisconnectReason::parse)?;
    Ok(Some(Disconnect { at, reason, detail: fields.text("disconnect_detail")?.to_owned() }))
}
