//! Writes a transfer into a row of the table `transfers`, and reads it back.

use filepull_core::base_offer::BaseUse;
use filepull_core::digest::Digest;
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::pull_mode::PullMode;
use filepull_core::receive::Prefix;
use filepull_core::source::Source;
use filepull_core::transfer::{
    Download, Failure, LastProgress, Phase, PhaseName, Published, Receiving, Sealed, Setbacks,
    Transfer, UnchangedFile,
};

use super::checksum::checksum;
use super::damaged::RecordedTransfer;
use super::error::RecordsError;
use super::fields::RowFields;
use super::statement::{Row, Statement};

const SAVE: &str = include_str!("save.sql");

const CHECKPOINT: &str = include_str!("checkpoint.sql");

/// Returns the statement that saves a transfer. It returns a row unless the record is final or
/// belongs to a later attempt.
pub(crate) fn save(transfer: &Transfer) -> Statement {
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
    bind_phase(&transfer.phase, statement)
        .bind(transfer.mode.as_str())
        .bind(transfer.sent.cast_signed())
        .bind(transfer.base_use.as_str())
        .bind(transfer.phase.unchanged().map(|unchanged| unchanged.since.to_string()))
        .bind(checksum(transfer))
}

/// Returns the statement that saves the checkpoint of a receiving transfer, or none in another phase.
/// The statement returns a row unless another field of the transfer differs from the record.
pub(crate) fn checkpoint(transfer: &Transfer) -> Option<Statement> {
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
        .bind(transfer.sent.cast_signed())
        .bind(transfer.base_use.as_str())
        .bind(checksum(transfer));
    Some(statement)
}

fn bind_phase(phase: &Phase, statement: Statement) -> Statement {
    let receiving = if let Phase::Receiving(receiving) = phase { Some(receiving) } else { None };
    let checkpoint = receiving.map(Receiving::checkpoint);
    let download = phase.complete_file();
    let failure = phase.failure();
    let source = receiving
        .map(Receiving::source)
        .or(download.map(|file| &file.source))
        .or(phase.unchanged().map(|unchanged| &unchanged.source))
        .or(failure.and_then(|failure| failure.reached.source.as_ref()));
    let problem = failure.map(|failure| &failure.problem);
    bind_source(source, statement.bind(phase.name().as_str().to_owned()))
        .bind(checkpoint.map(|prefix| prefix.len.cast_signed()))
        .bind(checkpoint.map(|prefix| prefix.digest.to_string()))
        .bind(download.map(|file| file.name.to_string()))
        .bind(download.map(|file| file.size.cast_signed()))
        .bind(download.map(|file| file.digests.blake3.to_string()))
        .bind(download.map(|file| file.digests.sha256.to_string()))
        .bind(download.map(|file| file.inode.cast_signed()))
        .bind(failure.map(|failure| failure.reached.received.cast_signed()))
        .bind(problem.map(|problem| problem.code.as_str().to_owned()))
        .bind(problem.map(|problem| problem.detail.clone()))
        .bind(problem.map(|problem| problem.hint.clone()))
}

/// Binds a source to three columns. A size of 2^63 bytes or more is stored as a negative number.
pub(crate) fn bind_source(source: Option<&Source>, statement: Statement) -> Statement {
    statement
        .bind(source.map(|source| source.name.clone()))
        .bind(source.map(|source| source.size.cast_signed()))
        .bind(source.map(|source| source.modified_ns))
}

/// Reads a row and compares its checksum.
pub(crate) fn read(row: &Row) -> Result<Transfer, RecordsError> {
    let fields = RowFields::new("transfer", row);
    let path = fields.text_if_any("path")?;
    let parse_path = |_| fields.parse("path", |text| SharedPath::parse(text).ok());
    let transfer = Transfer {
        id: fields.parse("id", |text| TransferId::parse(text).ok())?,
        client: fields.parse("client", |text| ClientId::parse(text).ok())?,
        path: path.map(parse_path).transpose()?,
        mode: fields.parse("mode", PullMode::parse)?,
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
        sent: fields.unsigned("sent")?,
        base_use: fields.parse("base_use", BaseUse::parse)?,
        phase: read_phase(&fields)?,
    };
    let recorded = fields.text("row_check")?;
    if recorded == checksum(&transfer) {
        Ok(transfer)
    } else {
        Err(fields.damaged("row_check", recorded))
    }
}

fn read_phase(fields: &RowFields<'_>) -> Result<Phase, RecordsError> {
    Ok(match fields.parse("state", PhaseName::parse)? {
        PhaseName::Queued => Phase::Queued,
        PhaseName::Receiving => {
            let checkpoint = Prefix {
                len: fields.unsigned("checkpoint_len")?,
                digest: fields.parse("checkpoint_digest", Blake3::parse)?,
            };
            Phase::Receiving(Receiving::from_record(read_source(fields)?, checkpoint))
        }
        PhaseName::Sealed => Phase::Sealed(Sealed::from_record(read_download(fields)?)),
        PhaseName::Done => Phase::Done(Published::from_record(read_download(fields)?)),
        PhaseName::Unchanged => Phase::Unchanged(UnchangedFile {
            source: read_source(fields)?,
            since: fields.parse("unchanged_since", DownloadName::parse)?,
        }),
        PhaseName::Failed => Phase::Failed(read_failure(fields)?),
        PhaseName::Cancelled => Phase::Cancelled(read_failure(fields)?),
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
        digests: FileDigests {
            blake3: fields.parse("download_blake3", Blake3::parse)?,
            sha256: fields.parse("download_sha256", Digest::parse)?,
        },
        inode: fields.unsigned("download_inode")?,
    })
}

fn read_failure(fields: &RowFields<'_>) -> Result<Failure, RecordsError> {
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

/// Reads a row. A row that cannot be read becomes a damaged item.
pub(crate) fn recorded(row: &Row) -> RecordedTransfer {
    match read(row) {
        Ok(transfer) => RecordedTransfer::Readable(Box::new(transfer)),
        Err(error) => RecordedTransfer::damaged(row, &error),
    }
}
