//! The one task that writes. It commits whatever waits in one go, so that a thousand triggers do
//! not cost a thousand fsyncs. What the statements mean is not its concern.
//!
//! It has a thread and a connection of its own: a whole batch is one change of thread there and one
//! back.

use std::mem;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, TransactionBehavior};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::RecordsError;
use super::guard::DatabaseGuard;
use super::lock::Lock;
use super::statement::{Row, Statement, Value};

/// 1,024 statements of a few KiB at most. When it is full whoever asks waits for the disk: a
/// trigger must not be answered before it is durable anyway.
const QUEUE_LEN: usize = 1024;

/// Bounds how long the first of a batch waits for the last.
const MAX_BATCH: usize = 256;

/// Asks the writing task.
#[derive(Clone, Debug)]
pub(super) struct RecordsWriter {
    queue: mpsc::Sender<Write>,
    stop: CancellationToken,
    tasks: TaskTracker,
    told: Arc<ResponseSender>,
}

/// What the task tells of itself.
#[derive(Debug, Default)]
struct ResponseSender {
    commits: AtomicU64,
    close_error: OnceLock<Arc<rusqlite::Error>>,
}

/// The first row that a statement returned.
pub(super) type Returned = Option<Row>;

/// A column of the first row that a statement returned, and the value that it must have.
pub(super) type Condition = (&'static str, Value);

/// Statements that wait, all or none of them to be done, and who waits for them.
#[derive(Debug)]
struct Write {
    statements: Vec<Statement>,
    /// What the first one must return, or the others are not run.
    only_if: Option<Condition>,
    reply: oneshot::Sender<Result<Returned, RecordsError>>,
}

impl RecordsWriter {
    /// Starts the task, which holds `lock` until it ends: when it is stopped, or when the last
    /// handle is dropped.
    pub(super) fn start(connection: Connection, lock: Lock, guard: DatabaseGuard) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE_LEN);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let told = Arc::<ResponseSender>::default();
        let task = WriteJob { connection, lock, guard, told: Arc::clone(&told) };
        let until = stop.clone();
        tasks.spawn_blocking(move || task.run(inbox, &until));
        Self { queue, stop, tasks, told }
    }

    /// Runs a statement; when this returns `Ok`, it is durable.
    ///
    /// # Errors
    /// The statement failed, or its commit did. It may then be durable or not.
    pub(super) async fn write(&self, statement: Statement) -> Result<Returned, RecordsError> {
        self.write_all(vec![statement]).await
    }

    /// Runs statements of which all become durable or none. Answers what the first returned.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn write_all(
        &self,
        statements: Vec<Statement>,
    ) -> Result<Returned, RecordsError> {
        self.queue(statements, None).await
    }

    /// Runs a statement, and the next one if the first returns this value. Both become durable or
    /// neither does. Returns what the first statement returned.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn write_if(
        &self,
        first: Statement,
        only_if: Condition,
        next: Statement,
    ) -> Result<Returned, RecordsError> {
        self.queue(vec![first, next], Some(only_if)).await
    }

    async fn queue(
        &self,
        statements: Vec<Statement>,
        only_if: Option<Condition>,
    ) -> Result<Returned, RecordsError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.queue.send(Write { statements, only_if, reply }).await;
        asked.map_err(|_| RecordsError::Closed)?;
        answer.await.map_err(|_| RecordsError::Closed)?
    }

    /// Takes no more statements, and waits until those that wait are committed and the file is
    /// closed.
    ///
    /// # Errors
    /// The file was not closed well. Nothing is lost: the next start reads the log beside it.
    pub(super) async fn stop(&self) -> Result<(), RecordsError> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        match self.told.close_error.get() {
            Some(error) => Err(RecordsError::Database(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// How often it has committed.
    #[cfg(test)]
    pub(super) fn commits(&self) -> u64 {
        self.told.commits.load(Ordering::Relaxed)
    }
}

/// What the task owns.
struct WriteJob {
    connection: Connection,
    lock: Lock,
    guard: DatabaseGuard,
    told: Arc<ResponseSender>,
}

/// Why a batch was not committed.
enum WriteError {
    /// One of its statements is at fault.
    Statement(rusqlite::Error),
    /// The transaction as a whole is.
    Transaction(rusqlite::Error),
}

impl WriteJob {
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

    /// Commits a batch and answers everyone in it.
    fn write(&mut self, batch: Vec<Write>) {
        // Check before the commit, so that a rejected write is not made, and after it, so that an
        // acknowledged write is in the files that the next server opens.
        let guarded = self.guard.check().map(|()| self.commit(&batch));
        let committed = match guarded.and_then(|done| self.guard.check().map(|()| done)) {
            Ok(committed) => committed,
            Err(gone) => {
                for write in batch {
                    write.answer(Err(RecordsError::Gone { file: gone.clone() }));
                }
                return;
            }
        };
        match committed {
            Ok(all) => batch.into_iter().zip(all).for_each(|(write, it)| write.answer(Ok(it))),
            Err(WriteError::Statement(_)) if 1 < batch.len() => {
                // Nobody pays for a neighbour's failure: each one gets a transaction of its own.
                for write in batch {
                    let done = self.commit(slice::from_ref(&write));
                    let returned = done.map(|all| all.into_iter().next().flatten());
                    write.answer(returned.map_err(|failed| failed.into_inner().into()));
                }
            }
            Err(failed) => {
                let error = Arc::new(failed.into_inner());
                for write in batch {
                    write.answer(Err(RecordsError::Database(Arc::clone(&error))));
                }
            }
        }
    }

    /// All or nothing; one fsync.
    fn commit(&mut self, batch: &[Write]) -> Result<Vec<Returned>, WriteError> {
        let immediate = TransactionBehavior::Immediate;
        let begun = self.connection.transaction_with_behavior(immediate);
        let transaction = begun.map_err(WriteError::Transaction)?;
        // An error drops the transaction, which rolls it back. If that fails too, the next one
        // cannot begin, and says so to whoever is concerned.
        let all = batch.iter().map(|write| write.run(&transaction));
        let all = all.collect::<Result<_, _>>().map_err(WriteError::Statement)?;
        transaction.commit().map_err(WriteError::Transaction)?;
        self.told.commits.fetch_add(1, Ordering::Relaxed);
        Ok(all)
    }

    /// Leaves one file behind, without a log beside it, and then lets the next server in.
    fn close(self) {
        let checkpointed =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        let closed = self.connection.close().map_err(|(_, error)| error);
        if let Err(error) = checkpointed.and(closed) {
            self.told.close_error.get_or_init(|| Arc::new(error));
        }
        drop(self.lock);
    }
}

impl Write {
    /// Runs the statements; answers what the first returned.
    fn run(&self, connection: &Connection) -> rusqlite::Result<Returned> {
        let mut statements = self.statements.iter();
        let Some(first) = statements.next() else { return Ok(None) };
        let returned = first.run(connection)?.into_iter().next();
        let is_met = |(column, value): &Condition| {
            returned.as_ref().and_then(|row| row.get(column)) == Some(value)
        };
        if self.only_if.as_ref().is_none_or(is_met) {
            statements.try_for_each(|statement| statement.run(connection).map(drop))?;
        }
        Ok(returned)
    }

    fn answer(self, result: Result<Returned, RecordsError>) {
        // Whoever asked may be gone; what is committed stays.
        let _ = self.reply.send(result);
    }
}

impl WriteError {
    fn into_inner(self) -> rusqlite::Error {
        match self {
            Self::Statement(error) | Self::Transaction(error) => error,
        }
    }
}
