//! Clients in the records: one row each, from their first line on.

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use filepull_core::problem::Code;
use rusqlite::Connection;

use super::RecordsError;
use super::fields::Fields;
use super::readers::Readers;
use super::statement::{Row, Statement};
use super::transfers::bind_source;
use crate::client::{Agent, ClientRecord, DefaultFile, Disconnect, DisconnectReason, Greeting};

const CONNECTED: &str = include_str!("connected.sql");

const LEFT: &str = "UPDATE clients SET connected = 0, last_seen_at = $3, \
     disconnected_at = $4, disconnect_reason = $5, disconnect_detail = $6, \
     default_name = $7, default_size = $8, default_modified_ns = $9, default_error = $10 \
     WHERE id = $1 AND epoch = $2";

const CUT_OFF: &str = "UPDATE clients SET connected = 0, \
     disconnected_at = $1, disconnect_reason = $2, disconnect_detail = $3 WHERE connected = 1";

const ALL: &str = "SELECT * FROM clients ORDER BY id";

/// The statement that notes a greeting. It returns the new epoch.
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
    let statement = Statement::new(LEFT)
        .bind(left.id.to_string())
        .bind(left.epoch.cast_signed())
        .bind(left.last_seen_at.timestamp_millis())
        .bind(disconnect.map(|disconnect| disconnect.at.timestamp_millis()))
        .bind(disconnect.map(|disconnect| disconnect.reason.as_str().to_owned()))
        .bind(disconnect.map(|disconnect| disconnect.detail.clone()));
    bind_source(left.default_file.as_ref().ok(), statement)
        .bind(left.default_file.as_ref().err().map(|code| code.as_str().to_owned()))
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

/// Each client, or why its record cannot be read.
pub(super) async fn all(
    readers: &Readers,
) -> Result<Vec<Result<ClientRecord, RecordsError>>, RecordsError> {
    Ok(readers.list(Statement::new(ALL)).await?.iter().map(read).collect())
}

fn read(row: &Row) -> Result<ClientRecord, RecordsError> {
    let fields = Fields::new("client", row);
    Ok(ClientRecord {
        id: fields.parse("id", |text| ClientId::parse(text).ok())?,
        epoch: fields.unsigned("epoch")?,
        agent: Agent {
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
    })
}

fn read_default_file(fields: &Fields<'_>) -> Result<DefaultFile, RecordsError> {
    match fields.text_if_any("default_error")? {
        Some(_) => Ok(Err(fields.parse("default_error", Code::parse)?)),
        None => fields.source(["default_name", "default_size", "default_modified_ns"]).map(Ok),
    }
}

fn read_disconnect(fields: &Fields<'_>) -> Result<Option<Disconnect>, RecordsError> {
    let Some(at) = fields.time_if_any("disconnected_at")? else { return Ok(None) };
    let reason = fields.parse("disconnect_reason", DisconnectReason::parse)?;
    Ok(Some(Disconnect { at, reason, detail: fields.text("disconnect_detail")?.to_owned() }))
}
