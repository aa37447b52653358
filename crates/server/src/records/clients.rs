//! Clients in the records: one row each, from their first line on.

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use filepull_core::problem::Code;
use rusqlite::Connection;

use super::RecordsError;
use super::fields::RowFields;
use super::readers::Readers;
use super::statement::{Row, Statement};
use super::transfers::bind_source;
use crate::client::{AgentInfo, ClientRecord, DefaultFile, Disconnect, DisconnectReason, Greeting};

const CONNECTED: &str = include_str!("connected.sql");

/// The column `connected` of a client that is offline.
const OFFLINE: i64 = 0;
// 1: its session is open, or was when the server was killed.
/// The server disconnected it because the server stopped.
const LEFT_BY_SERVER: i64 = 2;
/// It was connected when the server before this one ended, and has not been back since.
const ONLINE_BEFORE: i64 = 3;

const LEFT: &str = "UPDATE clients SET connected = $11, last_seen_at = $3, \
     disconnected_at = $4, disconnect_reason = $5, disconnect_detail = $6, \
     default_name = $7, default_size = $8, default_modified_ns = $9, default_error = $10 \
     WHERE id = $1 AND epoch = $2";

/// Touches only clients that were connected, or would have been, when a server ended. The values of
/// `connected` are those above.
pub(super) const CUT_OFF: &str = "UPDATE clients SET \
     connected = CASE connected WHEN 3 THEN 0 ELSE 3 END, \
     disconnected_at = CASE connected WHEN 1 THEN $1 ELSE disconnected_at END, \
     disconnect_reason = CASE connected WHEN 1 THEN $2 ELSE disconnect_reason END, \
     disconnect_detail = CASE connected WHEN 1 THEN $3 ELSE disconnect_detail END \
     WHERE connected <> 0";

const ONE: &str = "SELECT * FROM clients WHERE id = $1";

const COUNT: &str = "SELECT COUNT(*) AS n FROM clients";

/// The outcome of recording a greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// The client has a new session.
    Accepted {
        /// The epoch of the session: higher than any before.
        epoch: u64,
        /// How the session before this one ended, as far as it is on record.
        last_disconnect: Option<Disconnect>,
    },
    /// The client is new, and its id differs from this known one by letter case only.
    Confusable(ClientId),
}

/// The statement that notes a greeting. It returns a row unless the id can be confused.
pub(super) fn connected(greeting: &Greeting, now: DateTime<Utc>) -> Statement {
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
}

/// The statement that notes the end of a line. It does nothing when a newer line is open: the old
/// one's end is then no news.
pub(super) fn left(left: &ClientRecord) -> Statement {
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

/// Notes for every client that was connected when the last server ended that it no longer is.
pub(super) fn cut_off(connection: &Connection, now: DateTime<Utc>) -> rusqlite::Result<()> {
    // The last word we have of it may be days older than its line was: `now` is nearer the truth.
    let cut_off = Statement::new(CUT_OFF)
        .bind(now.timestamp_millis())
        .bind(DisconnectReason::ServerRestart.as_str())
        .bind("the server was started again; the one before it had this client connected");
    cut_off.run(connection).map(drop)
}

/// How the session before ended, or why that cannot be read.
type LastDisconnect = Result<Option<Disconnect>, RecordsError>;

/// Reads the row that [`connected`] returned.
pub(super) fn enrolled(row: &Row) -> Result<(u64, LastDisconnect), RecordsError> {
    let fields = RowFields::new("client", row);
    Ok((fields.unsigned("epoch")?, read_disconnect(&fields)))
}

pub(super) async fn one(
    readers: &Readers,
    id: &ClientId,
) -> Result<Option<ClientRecord>, RecordsError> {
    let row = readers.point(Statement::new(ONE).bind(id.as_str())).await?;
    row.as_ref().map(read).transpose()
}

/// Those of the clients that are on record, or why a record cannot be read.
pub(super) async fn each(
    readers: &Readers,
    ids: &[ClientId],
) -> Result<Vec<Result<ClientRecord, RecordsError>>, RecordsError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = Statement::new("SELECT * FROM clients WHERE id IN (");
    for (idx, id) in ids.iter().enumerate() {
        query.push(if idx == 0 { "" } else { ", " }).push_bind(id.as_str());
    }
    query.push(")");
    Ok(readers.list(query).await?.iter().map(read).collect())
}

pub(super) fn count_now(connection: &Connection) -> rusqlite::Result<u64> {
    let rows = Statement::new(COUNT).run(connection)?;
    Ok(rows.first().and_then(|row| row.integer("n")).unwrap_or_default().cast_unsigned())
}

pub(super) async fn count(readers: &Readers) -> Result<u64, RecordsError> {
    let row = readers.point(Statement::new(COUNT)).await?;
    Ok(row.and_then(|row| row.integer("n")).unwrap_or_default().cast_unsigned())
}

fn read(row: &Row) -> Result<ClientRecord, RecordsError> {
    let fields = RowFields::new("client", row);
    Ok(ClientRecord {
        id: fields.parse("id", |text| ClientId::parse(text).ok())?,
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
        connected_at: fields.time("connected_at")?,
        last_seen_at: fields.time("last_seen_at")?,
        last_disconnect: read_disconnect(&fields)?,
        online_before: fields.integer("connected")? == ONLINE_BEFORE,
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
