//! The log of transfers: who took which file of this machine, and when. The owner of the machine reads
//! it with `filepull-agent log`, independently of the server.
//!
//! The start of a transfer is written before its bytes leave. A disk that is full or hangs stops no
//! transfer: the ordinary log then says that the record is missing.

mod file;
mod record;
mod report;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use self::file::LogFolder;
pub(crate) use self::record::{TransferEvent, TransferRecord};
pub(crate) use self::report::LogReport;
use crate::error_text::io_error;
use crate::order::SendOrder;
use crate::status_log::StatusLog;

/// Records that wait for the disk. If the queue is full a record is lost, and the log says so.
const QUEUE_LEN: usize = 256;

/// How long the disk may delay a transfer, and the end of the agent.
const DISK_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the bytes of one upload that were passed to the network.
pub(crate) type SentBytes = Arc<AtomicU64>;

/// A handle on the log. Without a state folder nothing is written.
#[derive(Clone, Debug)]
pub(crate) struct TransferLog {
    queue: Option<mpsc::Sender<QueuedRecord>>,
    status_log: StatusLog,
    client: String,
    server: String,
}

#[derive(Debug)]
struct QueuedRecord {
    record: TransferRecord,
    /// Resolves when the record was written, or could not be.
    done: Option<oneshot::Sender<()>>,
}

/// Writes the records to the state folder.
#[derive(Debug)]
pub(crate) struct LogWriter {
    queue: mpsc::Receiver<QueuedRecord>,
    folder: Option<Arc<LogFolder>>,
    status_log: StatusLog,
    /// The last write failed, and the failure was logged.
    failing: bool,
    writing: Option<BatchWrite>,
}

/// Records that are being written. The writer keeps them, so that the end of the agent waits for them.
#[derive(Debug)]
struct BatchWrite {
    task: JoinHandle<io::Result<()>>,
    /// Resolve with the end of the write.
    _waiting: Vec<Option<oneshot::Sender<()>>>,
}

/// A transfer that has started. Its end is recorded even if the upload is dropped.
#[derive(Debug)]
pub(crate) struct StartedRecord {
    log: TransferLog,
    /// `None` once the end is recorded.
    record: Option<TransferRecord>,
    sent: SentBytes,
}

impl TransferLog {
    /// Creates the log of `client`, which sends to `server`.
    pub(crate) fn new(
        dir: Option<&Path>,
        client: String,
        server: String,
        status_log: StatusLog,
    ) -> (Self, LogWriter) {
        let (sender, queue) = mpsc::channel(QUEUE_LEN);
        let folder = dir.map(|dir| Arc::new(LogFolder::new(dir)));
        let queue_sender = folder.is_some().then_some(sender);
        let writer_status = status_log.clone();
        let writer =
            LogWriter { queue, folder, status_log: writer_status, failing: false, writing: None };
        (Self { queue: queue_sender, status_log, client, server }, writer)
    }

    /// Records that the agent refused an order, for this reason.
    pub(crate) fn refuse(&self, order: OrderText<'_>, reason: &str) {
        let record = self.record(order, TransferEvent::Refused).because(reason);
        if self.send(record, None).is_err() {
            self.warn_of_lost_record();
        }
    }

    /// Records the start of a transfer, and waits until the record is on the disk, at most
    /// [`DISK_TIMEOUT`]. `sent` counts its bytes.
    pub(crate) async fn start(
        &self,
        order: OrderText<'_>,
        size: u64,
        sent: SentBytes,
    ) -> StartedRecord {
        let mut record = self.record(order, TransferEvent::Started);
        record.size = Some(size);
        let (done, written) = oneshot::channel();
        let queued = self.send(record.clone(), Some(done));
        if queued.is_ok() {
            let _ = timeout(DISK_TIMEOUT, written).await;
        } else {
            self.warn_of_lost_record();
        }
        StartedRecord { log: self.clone(), record: Some(record), sent }
    }

    fn record(&self, order: OrderText<'_>, event: TransferEvent) -> TransferRecord {
        TransferRecord::new(&self.client, &self.server, order, event)
    }

    fn warn_of_lost_record(&self) {
        self.status_log.warn("the log of transfers lacks a record: the disk does not respond");
    }

    fn send(
        &self,
        record: TransferRecord,
        done: Option<oneshot::Sender<()>>,
    ) -> Result<(), LostRecord> {
        let Some(queue) = &self.queue else { return Ok(()) };
        queue.try_send(QueuedRecord { record, done }).map_err(|_| LostRecord)
    }
}

/// The queue is full: the record is not written.
#[derive(Clone, Copy, Debug)]
struct LostRecord;

/// The part of an order that is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderText<'a> {
    pub(crate) transfer: &'a str,
    pub(crate) attempt: u32,
    /// As requested; the name of the default file without a path.
    pub(crate) path: &'a str,
    pub(crate) requested_by: &'a str,
}

impl<'a> OrderText<'a> {
    pub(crate) fn new(order: &'a SendOrder, transfer: &'a str, path: &'a str) -> Self {
        Self { transfer, attempt: order.attempt, path, requested_by: &order.requested_by }
    }
}

impl StartedRecord {
    /// Records the end of the transfer.
    pub(crate) fn end(mut self, event: TransferEvent, reason: &str) {
        self.record_end(event, reason);
    }

    fn record_end(&mut self, event: TransferEvent, reason: &str) {
        let Some(record) = self.record.take() else { return };
        let sent = self.sent.load(Ordering::Relaxed);
        let ended = record.ended(event, sent).because(reason);
        if self.log.send(ended, None).is_err() {
            self.log.warn_of_lost_record();
        }
    }
}

impl Drop for StartedRecord {
    fn drop(&mut self) {
        self.record_end(TransferEvent::Stopped, "");
    }
}

impl LogWriter {
    /// Writes each record. Never returns: the caller drops the future to stop it.
    pub(crate) async fn run(&mut self) {
        while let Some(first) = self.queue.recv().await {
            self.write(first).await;
        }
        std::future::pending::<()>().await;
    }

    /// Writes the remaining records, within [`DISK_TIMEOUT`].
    pub(crate) async fn finish(mut self) {
        let rest = async {
            self.written().await;
            while let Ok(record) = self.queue.try_recv() {
                self.write(record).await;
            }
        };
        let _ = timeout(DISK_TIMEOUT, rest).await;
    }

    /// Writes a record, and those that wait behind it.
    async fn write(&mut self, first: QueuedRecord) {
        let Some(folder) = self.folder.clone() else { return };
        let mut records = vec![first.record];
        let mut waiting = vec![first.done];
        while let Ok(QueuedRecord { record, done }) = self.queue.try_recv() {
            records.push(record);
            waiting.push(done);
        }
        let task = spawn_blocking(move || folder.append(&records));
        self.writing = Some(BatchWrite { task, _waiting: waiting });
        self.written().await;
    }

    /// Waits for the end of the current write.
    async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        let written = (&mut writing.task).await;
        self.writing = None;
        let reason = match written {
            Ok(Ok(())) => {
                self.failing = false;
                return;
            }
            Ok(Err(error)) => io_error(&error),
            Err(_panic) => "internal error in the agent".to_owned(),
        };
        if !std::mem::replace(&mut self.failing, true) {
            let folder = self.folder.as_ref().map(|folder| folder.path());
            let path = folder.unwrap_or(Path::new("")).display();
            self.status_log.warn(&format!(
                "STATE_DIR: the log of transfers in {path} cannot be written: {reason}. Files are \
                 sent, but not on record."
            ));
        }
    }
}

#[cfg(test)]
mod tests;
