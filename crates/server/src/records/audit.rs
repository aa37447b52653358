//! The table `audit`: the chain of everything that was done. Records are only added, and kept
//! forever.

use chrono::{DateTime, SubsecRound as _, Utc};
use filepull_core::audit::{AuditAction, AuditContent, AuditRecord, ChainHead};
use filepull_core::digest::Digest;
use filepull_core::human;
use rusqlite::Connection;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Records;
use super::change::Change;
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};

const APPEND: &str = "INSERT INTO audit \
     (seq, at, actor, address, action, subject, detail, request, previous, digest) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// More than one row, because the last one may be damaged.
const LAST: &str = "SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 8";

/// The actor of an act that no caller requested.
const SERVER: &str = "server";

/// Maximum length of a text of a record, in characters. Ids and names are shorter.
const MAX_TEXT: usize = 200;

/// Maximum length of a detail, in bytes. A longer detail is replaced by its length.
const MAX_DETAIL: usize = 16 * 1024;

/// The party that does something, as far as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// The name of a token, a user or a client, an address, or `server`.
    pub(crate) name: String,
    /// The address that the request came from; empty for the server itself.
    pub(crate) address: String,
    /// The id of the request, as the log shows it.
    pub(crate) request_id: Option<Uuid>,
}

impl Actor {
    /// Returns the server, for an act that no caller requested.
    pub(crate) fn server() -> Self {
        Self { name: SERVER.to_owned(), address: String::new(), request_id: None }
    }

    /// Returns the entry of an act on a client, a token or a setting.
    pub(crate) fn did(&self, action: AuditAction, subject: impl Into<String>) -> AuditEntry {
        AuditEntry { actor: self.clone(), action, subject: subject.into(), detail: Map::new() }
    }
}

/// A record that will be appended to the audit. Its detail must not hold a secret.
#[derive(Clone, Debug)]
pub(crate) struct AuditEntry {
    pub(crate) actor: Actor,
    pub(crate) action: AuditAction,
    /// A client, a token or a setting.
    pub(crate) subject: String,
    /// What else is known: texts, whole numbers, lists and objects. No number has a fraction, because
    /// programs write those in different ways.
    pub(crate) detail: Map<String, Value>,
}

impl AuditEntry {
    /// Adds a member to the detail.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    /// Returns what is stored. Text from outside becomes printable and bounded.
    fn content(&self, at: DateTime<Utc>) -> AuditContent {
        let Self { actor, action, subject, detail } = self;
        let Actor { name, address, request_id } = actor;
        let text = |text: &str| human::printable(text, MAX_TEXT);
        let detail = serde_json::json!(detail).to_string();
        let detail = match detail.len() {
            0..=MAX_DETAIL => detail,
            len => serde_json::json!({ "omitted_bytes": len }).to_string(),
        };
        AuditContent {
            at,
            actor: text(name),
            address: text(address),
            action: action.as_str().to_owned(),
            subject: text(subject),
            detail,
            request: request_id.map_or_else(String::new, |id| id.to_string()),
        }
    }
}

impl Records {
    /// Appends a record to the audit. It is durable when this returns `Ok`.
    ///
    /// # Errors
    /// The record may be durable or not. What it describes must not be done.
    pub(crate) async fn audit(&self, entry: AuditEntry) -> Result<(), RecordsError> {
        self.writer.apply(Change::new(Vec::new()).audit([entry])).await.map(drop)
    }
}

/// The end of the chain, as the writer knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AuditTrail {
    /// None until it is read from the database: at the start, and after a commit that failed and may
    /// be durable all the same.
    head: Option<ChainHead>,
}

impl AuditTrail {
    /// Appends a record inside a transaction. If the transaction is not committed, `self` must be
    /// discarded.
    pub(crate) fn append(
        &mut self,
        connection: &Connection,
        entry: &AuditEntry,
    ) -> rusqlite::Result<()> {
        let mut head = match self.head {
            Some(head) => head,
            None => read_head(connection)?,
        };
        let record = head.append(entry.content(Utc::now().trunc_subsecs(3)));
        insert(&record).run(connection)?;
        self.head = Some(head);
        Ok(())
    }
}

/// Reads the end of the chain. The chain continues behind a damaged record, which `audit verify`
/// names.
fn read_head(connection: &Connection) -> rusqlite::Result<ChainHead> {
    let rows = Statement::new(LAST).run(connection)?;
    let head = rows.iter().find_map(|row| {
        let seq = u64::try_from(row.integer("seq")?).ok()?;
        let digest = row.text("digest").unwrap_or_default();
        let readable = Digest::parse(digest);
        Some(ChainHead { seq, digest: readable.unwrap_or_else(|| Digest::of(digest.as_bytes())) })
    });
    Ok(head.unwrap_or_else(ChainHead::empty))
}

fn insert(record: &AuditRecord) -> Statement {
    let AuditRecord { seq, content, previous, digest } = record.clone();
    Statement::new(APPEND)
        .bind(seq.cast_signed())
        .bind(content.at.timestamp_millis())
        .bind(content.actor)
        .bind(content.address)
        .bind(content.action)
        .bind(content.subject)
        .bind(content.detail)
        .bind(content.request)
        .bind(previous.to_string())
        .bind(digest.to_string())
}

/// Reads a record as it is stored, without verifying it.
pub(crate) fn read(row: &Row) -> Result<AuditRecord, RecordsError> {
    let fields = RowFields::named(format!("audit record {}", number(row)), row);
    let text = |column| fields.text(column).map(str::to_owned);
    Ok(AuditRecord {
        seq: fields.unsigned("seq")?,
        content: AuditContent {
            at: fields.time("at")?,
            actor: text("actor")?,
            address: text("address")?,
            action: text("action")?,
            subject: text("subject")?,
            detail: text("detail")?,
            request: text("request")?,
        },
        previous: fields.parse("previous", Digest::parse)?,
        digest: fields.parse("digest", Digest::parse)?,
    })
}

fn number(row: &Row) -> String {
    row.integer("seq").map_or_else(|| "without a readable number".to_owned(), |seq| seq.to_string())
}
