//! The only task that writes. It commits all waiting writes in one transaction, so that a thousand
//! triggers do not need a thousand fsyncs. It does not interpret the statements. A write that depends
//! on what is on record is a [decision](RecordsWriter::decide).
//!
//! It has its own thread and connection, so that a batch needs only two changes of threads.

use std::mem;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rusqlite::{Connection, TransactionBehavior};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::audit::AuditTrail;
use super::change::{Change, FirstRow};
use super::error::RecordsError;
use super::file_damage::FileDamage;
use super::guard::DatabaseGuard;
use super::lock::Lock;
use super::statement::Statement;
use super::transaction::Transaction;

/// Maximum number of writes that wait, each a few KiB at most. If the queue is full the caller waits
/// for the disk, because a trigger must not be answered before it is durable.
const QUEUE_LEN: usize = 1024;

/// Maximum number of writes in a transaction. Bounds how long the first one waits.
const MAX_BATCH: usize = 256;

/// A handle on the task that writes; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RecordsWriter {
    queue: mpsc::Sender<Write>,
    stop: CancellationToken,
    tasks: TaskTracker,
    status: Arc<WriterStatus>,
}

/// What the task reports to its handles.
#[derive(Debug, Default)]
struct WriterStatus {
    commits: AtomicU64,
    close_error: OnceLock<Arc<rusqlite::Error>>,
}

/// Work in one transaction. It may run twice: again alone, if another write of its batch fails.
type Job = Box<dyn Fn(&mut Transaction<'_>) -> Result<FirstRow, RecordsError> + Send>;

/// Work that becomes durable completely or not at all, and the caller that waits for it.
struct Write {
    job: Job,
    reply: oneshot::Sender<Result<FirstRow, RecordsError>>,
}

impl RecordsWriter {
    /// Starts the task, which holds `lock` until it ends. It ends when it is stopped, or when the last
    /// handle is dropped.
    pub(crate) fn start(
        connection: Connection,
        lock: Lock,
        guard: DatabaseGuard,
        damage: FileDamage,
    ) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE_LEN);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let status = Arc::<WriterStatus>::default();
        let trail = AuditTrail::default();
        let task =
            WriterTask { connection, lock, guard, damage, trail, status: Arc::clone(&status) };
        let task_stop = stop.clone();
        tasks.spawn_blocking(move || task.run(inbox, &task_stop));
        Self { queue, stop, tasks, status }
    }

    /// Runs a statement. It is durable when this returns `Ok`. After an error it may be durable or
    /// not.
    pub(crate) async fn write(&self, statement: Statement) -> Result<FirstRow, RecordsError> {
        self.apply(statement.into()).await
    }

    /// Runs statements, which become durable together or not at all. Returns the first row of the
    /// first statement.
    pub(crate) async fn write_all(
        &self,
        statements: Vec<Statement>,
    ) -> Result<FirstRow, RecordsError> {
        self.apply(Change::new(statements)).await
    }

    /// Makes a change, which becomes durable as a whole or not at all. Returns the first row of its
    /// first statement. After an error it may be durable or not.
    pub(crate) async fn apply(&self, change: Change) -> Result<FirstRow, RecordsError> {
        self.queue(Box::new(move |transaction| change.run(transaction))).await
    }

    /// Runs `decide`, which reads and writes in one transaction, and returns its decision once that is
    /// durable. If `decide` fails, nothing is written. It may run twice, and must not wait.
    pub(crate) async fn decide<T: Send + 'static>(
        &self,
        decide: impl Fn(&mut Transaction<'_>) -> Result<T, RecordsError> + Send + 'static,
    ) -> Result<T, RecordsError> {
        let decided = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&decided);
        let job: Job = Box::new(move |transaction| {
            let decision = decide(transaction)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision);
            Ok(None)
        });
        self.queue(job).await?;
        let decision = decided.lock().unwrap_or_else(PoisonError::into_inner).take();
        decision.ok_or(RecordsError::Closed)
    }

    async fn queue(&self, job: Job) -> Result<FirstRow, RecordsError> {
        let (reply, response) = oneshot::channel();
        let queued = self.queue.send(Write { job, reply }).await;
        queued.map_err(|_| RecordsError::Closed)?;
        response.await.map_err(|_| RecordsError::Closed)?
    }

    /// Accepts no more writes, and waits until the queued writes are committed and the file is closed.
    ///
    /// # Errors
    /// The file was not closed properly. No record is lost: the next start reads SQLite's log.
    pub(crate) async fn stop(&self) -> Result<(), RecordsError> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        match self.status.close_error.get() {
            Some(error) => Err(RecordsError::Database(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// Returns the number of commits since the start.
    #[cfg(test)]
    pub(crate) fn commits(&self) -> u64 {
        self.status.commits.load(Ordering::Relaxed)
    }
}

struct WriterTask {
    connection: Connection,
    lock: Lock,
    guard: DatabaseGuard,
    damage: FileDamage,
    trail: AuditTrail,
    status: Arc<WriterStatus>,
}

/// Why a batch was not committed.
enum WriteError {
    /// A write of the batch failed.
    Write(RecordsError),
    /// The transaction failed to begin or to commit.
    Transaction(rusqlite::Error),
}

impl WriterTask {
    fn run(mut self, mut inbox: mpsc::Receiver<Write>, stop: &CancellationToken) {
        let runtime = Handle::current();
        let mut batch = Vec::new();
        loop {
            let waiting = stop.run_until_cancelled(inbox.recv_many(&mut batch, MAX_BATCH));
            if runtime.block_on(waiting).is_none() {
                inbox.close();
                inbox.blocking_recv_many(&mut batch, MAX_BATCH);
            }
            if batch.is_empty() {
                break;
            }
            self.write(mem::take(&mut batch));
        }
        self.close();
    }

    /// Commits a batch and answers every caller.
    fn write(&mut self, batch: Vec<Write>) {
        // The check before the commit prevents a write that is rejected. The check after it ensures
        // that an acknowledged write is in the files that the next server opens.
        let guarded = self.guard.check().map(|()| self.commit(&batch));
        let committed = match guarded.and_then(|result| self.guard.check().map(|()| result)) {
            Ok(committed) => committed,
            Err(file) => {
                for write in batch {
                    write.answer(Err(RecordsError::Gone { file: file.clone() }));
                }
                return;
            }
        };
        match committed {
            Ok(rows) => batch.into_iter().zip(rows).for_each(|(write, row)| write.answer(Ok(row))),
            Err(WriteError::Write(_)) => {
                // One transaction per write, so that a failed write does not fail the others.
                for write in batch {
                    let committed = self.commit(slice::from_ref(&write));
                    let row = committed.map(|rows| rows.into_iter().next().flatten());
                    let noted = |error: WriteError| self.damage.noted(error.into_inner());
                    write.answer(row.map_err(noted));
                }
            }
            Err(WriteError::Transaction(error)) => {
                let error = Arc::new(error);
                for write in batch {
                    let error = RecordsError::Database(Arc::clone(&error));
                    write.answer(Err(self.damage.noted(error)));
                }
            }
        }
    }

    /// Commits all writes or none, with one fsync.
    fn commit(&mut self, batch: &[Write]) -> Result<Vec<FirstRow>, WriteError> {
        // Read again by the next append, unless the commit succeeds.
        let mut trail = mem::take(&mut self.trail);
        let immediate = TransactionBehavior::Immediate;
        let begun = self.connection.transaction_with_behavior(immediate);
        let transaction = begun.map_err(WriteError::Transaction)?;
        // An error drops the transaction, which rolls it back. If the rollback fails, the next
        // transaction fails to begin, and its callers get that error.
        let run = |write: &Write| (write.job)(&mut Transaction::new(&transaction, &mut trail));
        let rows = batch.iter().map(run).collect::<Result<_, _>>().map_err(WriteError::Write)?;
        transaction.commit().map_err(WriteError::Transaction)?;
        self.trail = trail;
        self.status.commits.fetch_add(1, Ordering::Relaxed);
        Ok(rows)
    }

    /// Removes SQLite's log, closes the file, then unlocks the folder.
    fn close(self) {
        let checkpointed =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        let closed = self.connection.close().map_err(|(_, error)| error);
        if let Err(error) = checkpointed.and(closed) {
            self.status.close_error.get_or_init(|| Arc::new(error));
        }
        drop(self.lock);
    }
}

impl Write {
    fn answer(self, result: Result<FirstRow, RecordsError>) {
        // Fails if the caller was cancelled. A committed write stays.
        let _ = self.reply.send(result);
    }
}

impl WriteError {
    fn into_inner(self) -> RecordsError {
        match self {
            Self::Write(error) => error,
            Self::Transaction(error) => error.into(),
        }
    }
}
