//! Transfers in the records: one row each, from the trigger on.

use std::collections::HashSet;

use filepull_core::digest::Digest;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::{
    Download, Failure, LastProgress, Phase, Published, Receiving, Sealed, Setbacks, Transfer,
};

use super::RecordsError;
use super::checksum::row_check;
use super::damaged::RecordedTransfer;
use super::fields::RowFields;
use super::list::PhaseName;
use super::readers::Readers;
use super::statement::{Row, Statement};

const SAVE: &str = include_str!("save.sql");

const CHECKPOINT: &str = include_str!("checkpoint.sql");

const ONE: &str = "SELECT * FROM transfers WHERE id = $1";

/// The names of the final states, as in the index of unfinished transfers. An unknown state counts
/// as unfinished.
pub(super) const UNFINISHED: &str = "SELECT * FROM transfers \
     WHERE state NOT IN ('done', 'failed', 'cancelled') ORDER BY created_at, id";

const NEWEST: &str = "SELECT * FROM transfers WHERE client = $1 \
     ORDER BY created_at DESC, id DESC LIMIT 1";

const NEWEST_DOWNLOAD: &str = "SELECT * FROM transfers WHERE client = $1 AND state = 'done' \
     ORDER BY finished_at DESC, id DESC LIMIT 1";

const NEWEST_DOWNLOAD_OF_PATH: &str = "SELECT * FROM transfers WHERE client = $1 AND path = $2 AND state = 'done' \
     ORDER BY finished_at DESC, id DESC LIMIT 1";

const NAMES_BETWEEN: &str = "SELECT download_name FROM transfers \
     WHERE client = $1 AND download_name >= $2 AND download_name < $3 AND id <> $4";

/// The statement that saves a transfer. It returns a row unless the record is final or of a later
/// attempt.
pub(super) fn save(transfer: &Transfer) -> Statement {
    let setbacks = transfer.setbacks;
    let statement = Statement::new(SAVE)
        .bind(transfer.id.to_string())
        .bind(transfer.client.to_string())
        .bind(transfer.path.as_ref().map(ToString::to_string))
        .bind(transfer.requested_by.clone())
        .bind(transfer.created_at.timestamp_millis())
        .bind(transfer.queue_until.map(|at| at.timestamp_millis()))
        .bind(transfer.started_at.map(|at| at.timestamp_millis()))
        .bind(transfer.finished_at.map(|at| at.timestamp_millis()))
        .bind(transfer.attempt)
        .bind(transfer.epoch.cast_signed())
        .bind(transfer.generation)
        .bind(setbacks.changed)
        .bind(setbacks.damaged)
        .bind(setbacks.stalled);
    bind_phase(&transfer.phase, statement).bind(row_check(transfer))
}

/// The statement that saves a checkpoint of a transfer that is receiving; nothing if it is not. It
/// returns a row unless anything else of the transfer has changed.
pub(super) fn checkpoint(transfer: &Transfer) -> Option<Statement> {
    let Phase::Receiving(receiving) = &transfer.phase else { return None };
    let checkpoint = receiving.checkpoint();
    let setbacks = transfer.setbacks;
    let fence = Statement::new(CHECKPOINT)
        .bind(transfer.id.to_string())
        .bind(transfer.attempt)
        .bind(transfer.epoch.cast_signed())
        .bind(transfer.generation)
        .bind(setbacks.changed)
        .bind(setbacks.damaged)
        .bind(setbacks.stalled)
        .bind(transfer.queue_until.map(|at| at.timestamp_millis()))
        .bind(transfer.started_at.map(|at| at.timestamp_millis()));
    let statement = bind_source(Some(receiving.source()), fence)
        .bind(checkpoint.len.cast_signed())
        .bind(checkpoint.digest.to_string())
        .bind(row_check(transfer));
    Some(statement)
}

fn bind_phase(phase: &Phase, statement: Statement) -> Statement {
    let (source, checkpoint, download, ended) = match phase {
        Phase::Queued => (None, None, None, None),
        Phase::Receiving(receiving) => {
            (Some(receiving.source()), Some(receiving.checkpoint()), None, None)
        }
        Phase::Sealed(_) | Phase::Done(_) => {
            let file = phase.complete_file();
            (file.map(|file| &file.source), None, file, None)
        }
        Phase::Failed(ended) | Phase::Cancelled(ended) => {
            (ended.reached.source.as_ref(), None, None, Some(ended))
        }
    };
    let problem = ended.map(|ended| &ended.problem);
    bind_source(source, statement.bind(PhaseName::of(phase).as_str().to_owned()))
        .bind(checkpoint.map(|prefix| prefix.len.cast_signed()))
        .bind(checkpoint.map(|prefix| prefix.digest.to_string()))
        .bind(download.map(|file| file.name.to_string()))
        .bind(download.map(|file| file.size.cast_signed()))
        .bind(download.map(|file| file.digest.to_string()))
        .bind(download.map(|file| file.inode.cast_signed()))
        .bind(ended.map(|ended| ended.reached.received.cast_signed()))
        .bind(problem.map(|problem| problem.code.as_str().to_owned()))
        .bind(problem.map(|problem| problem.detail.clone()))
        .bind(problem.map(|problem| problem.hint.clone()))
}

/// Binds a source to three columns. All 64 bits of a size are kept: beyond 2^63 bytes, which no
/// disk holds, it only looks negative.
pub(super) fn bind_source(source: Option<&Source>, statement: Statement) -> Statement {
    statement
        .bind(source.map(|source| source.name.clone()))
        .bind(source.map(|source| source.size.cast_signed()))
        .bind(source.map(|source| source.modified_ns))
}

/// Reads a row of the table.
pub(super) fn read(row: &Row) -> Result<Transfer, RecordsError> {
    let fields = RowFields::new("transfer", row);
    let path = fields.text_if_any("path")?;
    let parse_path = |_| fields.parse("path", |text| SharedPath::parse(text).ok());
    let transfer = Transfer {
        id: fields.parse("id", |text| TransferId::parse(text).ok())?,
        client: fields.parse("client", |text| ClientId::parse(text).ok())?,
        path: path.map(parse_path).transpose()?,
        requested_by: fields.text("requested_by")?.to_owned(),
        created_at: fields.time("created_at")?,
        queue_until: fields.time_if_any("queue_until")?,
        started_at: fields.time_if_any("started_at")?,
        finished_at: fields.time_if_any("finished_at")?,
        attempt: fields.count("attempt")?,
        epoch: fields.unsigned("epoch")?,
        generation: fields.count("generation")?,
        setbacks: Setbacks {
            changed: fields.count("changed")?,
            damaged: fields.count("damaged")?,
            stalled: fields.count("stalled")?,
        },
        phase: read_phase(&fields)?,
    };
    let check = fields.text("row_check")?;
    if check == row_check(&transfer) {
        Ok(transfer)
    } else {
        Err(fields.damaged("row_check", check))
    }
}

fn read_phase(fields: &RowFields<'_>) -> Result<Phase, RecordsError> {
    Ok(match fields.parse("state", PhaseName::parse)? {
        PhaseName::Queued => Phase::Queued,
        PhaseName::Receiving => {
            let checkpoint = Prefix {
                len: fields.unsigned("checkpoint_len")?,
                digest: fields.parse("checkpoint_digest", Digest::parse)?,
            };
            Phase::Receiving(Receiving::from_record(read_source(fields)?, checkpoint))
        }
        PhaseName::Sealed => Phase::Sealed(Sealed::from_record(read_download(fields)?)),
        PhaseName::Done => Phase::Done(Published::from_record(read_download(fields)?)),
        PhaseName::Failed => Phase::Failed(read_ended(fields)?),
        PhaseName::Cancelled => Phase::Cancelled(read_ended(fields)?),
    })
}

fn read_source(fields: &RowFields<'_>) -> Result<Source, RecordsError> {
    fields.source(["source_name", "source_size", "source_modified_ns"])
}

fn read_download(fields: &RowFields<'_>) -> Result<Download, RecordsError> {
    Ok(Download {
        source: read_source(fields)?,
        name: fields.parse("download_name", DownloadName::parse)?,
        size: fields.unsigned("download_size")?,
        digest: fields.parse("download_digest", Digest::parse)?,
        inode: fields.unsigned("download_inode")?,
    })
}

fn read_ended(fields: &RowFields<'_>) -> Result<Failure, RecordsError> {
    let was_opened = fields.text_if_any("source_name")?.is_some();
    Ok(Failure {
        problem: read_problem(fields)?,
        reached: LastProgress {
            source: was_opened.then(|| read_source(fields)).transpose()?,
            received: fields.unsigned("received")?,
        },
    })
}

fn read_problem(fields: &RowFields<'_>) -> Result<Problem, RecordsError> {
    Ok(Problem {
        code: fields.parse("error_code", Code::parse)?,
        detail: fields.text("error_detail")?.to_owned(),
        hint: fields.text("error_hint")?.to_owned(),
    })
}

/// Reads a row of the table. A row that cannot be read becomes a damaged item.
pub(super) fn recorded(row: &Row) -> RecordedTransfer {
    match read(row) {
        Ok(transfer) => RecordedTransfer::Readable(Box::new(transfer)),
        Err(error) => RecordedTransfer::damaged(row, &error),
    }
}

pub(super) async fn one(
    readers: &Readers,
    id: TransferId,
) -> Result<Option<RecordedTransfer>, RecordsError> {
    let row = readers.point(Statement::new(ONE).bind(id.to_string())).await?;
    Ok(row.as_ref().map(recorded))
}

pub(super) async fn unfinished(readers: &Readers) -> Result<Vec<RecordedTransfer>, RecordsError> {
    let rows = readers.list(Statement::new(UNFINISHED)).await?;
    Ok(rows.iter().map(recorded).collect())
}

pub(super) async fn newest(
    readers: &Readers,
    client: &ClientId,
) -> Result<Option<RecordedTransfer>, RecordsError> {
    let row = readers.point(Statement::new(NEWEST).bind(client.as_str())).await?;
    Ok(row.as_ref().map(recorded))
}

pub(super) async fn newest_download(
    readers: &Readers,
    client: &ClientId,
    path: Option<&SharedPath>,
) -> Result<Option<RecordedTransfer>, RecordsError> {
    let statement = match path {
        None => Statement::new(NEWEST_DOWNLOAD).bind(client.as_str()),
        Some(path) => {
            Statement::new(NEWEST_DOWNLOAD_OF_PATH).bind(client.as_str()).bind(path.as_str())
        }
    };
    let row = readers.point(statement).await?;
    Ok(row.as_ref().map(recorded))
}

/// The names of the client's other downloads with the time of `name`.
pub(super) async fn names_beside(
    readers: &Readers,
    transfer: &Transfer,
    name: &DownloadName,
) -> Result<HashSet<DownloadName>, RecordsError> {
    let Transfer { id, client, .. } = transfer;
    // `-2` and `.txt` follow the time, and both sort before `/`.
    let end = format!("{}/", name.stem());
    let statement = Statement::new(NAMES_BETWEEN).bind(client.as_str()).bind(name.stem());
    let rows = readers.few(statement.bind(end).bind(id.to_string())).await?;
    Ok(rows.iter().filter_map(|row| DownloadName::parse(row.text("download_name")?)).collect())
}

pub(super) async fn newest_of_each(
    readers: &Readers,
    clients: &[ClientId],
) -> Result<Vec<RecordedTransfer>, RecordsError> {
    // One index look-up for each client: grouping all transfers would read all of the index.
    let newest = |client: &ClientId| Statement::new(NEWEST).bind(client.as_str());
    let rows = readers.each(clients.iter().map(newest).collect()).await?;
    Ok(rows.iter().map(recorded).collect())
}
