//! The one task that writes. It commits whatever waits in one go, so that a thousand triggers do
//! not cost a thousand fsyncs. What the statements mean is not its concern.

use std::mem;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Connection, Execute, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::RecordsError;
use super::lock::Lock;

/// A statement with its values.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// 1,024 statements of a few KiB at most. When it is full whoever asks waits for the disk: a
/// trigger must not be answered before it is durable anyway.
const QUEUE_LEN: usize = 1024;

/// Bounds how long the first of a batch waits for the last.
const MAX_BATCH: usize = 256;

/// Asks the writing task.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Write>,
    stop: CancellationToken,
    tasks: TaskTracker,
    told: Arc<Told>,
}

/// What the task tells of itself.
#[derive(Debug, Default)]
struct Told {
    commits: AtomicU64,
    close_error: OnceLock<Arc<sqlx::Error>>,
}

/// Statements that wait, all or none of them to be done, and who waits for them.
#[derive(Debug)]
struct Write {
    statements: Vec<Bound>,
    reply: oneshot::Sender<Result<Option<SqliteRow>, RecordsError>>,
}

/// A statement with its values, for the task to prepare.
#[derive(Debug)]
pub(super) struct Bound {
    sql: &'static str,
    arguments: SqliteArguments,
}

impl Bound {
    /// Binds the values of a statement.
    ///
    /// # Errors
    /// One of them has no form in the database.
    pub(super) fn new(
        sql: &'static str,
        bind: impl FnOnce(Statement) -> Statement,
    ) -> Result<Self, RecordsError> {
        let arguments = bind(sqlx::query(sql)).take_arguments().map_err(sqlx::Error::Encode)?;
        Ok(Self { sql, arguments: arguments.unwrap_or_default() })
    }
}

impl Writer {
    /// Starts the task, which holds `lock` until it ends: when it is stopped, or when the last
    /// handle is dropped.
    pub(super) fn start(connection: SqliteConnection, lock: Lock) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE_LEN);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let told = Arc::<Told>::default();
        let task = Task { connection, lock, told: Arc::clone(&told) };
        tasks.spawn(task.run(inbox, stop.clone()));
        Self { queue, stop, tasks, told }
    }

    /// Runs a statement; when this returns `Ok`, it is durable. Answers the row it returned.
    ///
    /// # Errors
    /// The statement failed, or its commit did. It may then be durable or not.
    pub(super) async fn write(
        &self,
        sql: &'static str,
        bind: impl FnOnce(Statement) -> Statement,
    ) -> Result<Option<SqliteRow>, RecordsError> {
        self.write_all(vec![Bound::new(sql, bind)?]).await
    }

    /// Runs statements of which all become durable or none. Answers the row of the first.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) async fn write_all(
        &self,
        statements: Vec<Bound>,
    ) -> Result<Option<SqliteRow>, RecordsError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.queue.send(Write { statements, reply }).await;
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
struct Task {
    connection: SqliteConnection,
    lock: Lock,
    told: Arc<Told>,
}

/// Why a batch was not committed.
enum Failed {
    /// One of its statements is at fault.
    Statement(sqlx::Error),
    /// The transaction as a whole is.
    Transaction(sqlx::Error),
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Write>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let waiting = inbox.recv_many(&mut batch, MAX_BATCH);
            if stop.run_until_cancelled(waiting).await.is_none() {
                inbox.close();
                inbox.recv_many(&mut batch, MAX_BATCH).await;
            }
            if batch.is_empty() {
                break;
            }
            self.write(mem::take(&mut batch)).await;
        }
        self.close().await;
    }

    /// Commits a batch and answers everyone in it.
    async fn write(&mut self, batch: Vec<Write>) {
        match self.commit(&batch).await {
            Ok(rows) => batch.into_iter().zip(rows).for_each(|(write, row)| write.answer(Ok(row))),
            Err(Failed::Statement(_)) if 1 < batch.len() => {
                // Nobody pays for a neighbour's failure: each one gets a transaction of its own.
                for write in batch {
                    let done = self.commit(slice::from_ref(&write)).await;
                    let row = done.map(|rows| rows.into_iter().next().flatten());
                    write.answer(row.map_err(|failed| failed.into_inner().into()));
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
    async fn commit(&mut self, batch: &[Write]) -> Result<Vec<Option<SqliteRow>>, Failed> {
        let done = transact(&mut self.connection, batch).await;
        if done.is_ok() {
            self.told.commits.fetch_add(1, Ordering::Relaxed);
        } else {
            // Fails where SQLite has rolled back by itself. If it fails for another reason, the
            // next `BEGIN` says so to whoever is concerned.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        }
        done
    }

    /// Leaves one file behind, without a log beside it, and then lets the next server in.
    async fn close(mut self) {
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        let checkpointed = checkpoint.execute(&mut self.connection).await;
        if let Err(error) = checkpointed.and(self.connection.close().await) {
            self.told.close_error.get_or_init(|| Arc::new(error));
        }
        drop(self.lock);
    }
}

async fn transact(
    connection: &mut SqliteConnection,
    batch: &[Write],
) -> Result<Vec<Option<SqliteRow>>, Failed> {
    let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await;
    begun.map_err(Failed::Transaction)?;
    let mut rows = Vec::with_capacity(batch.len());
    for write in batch {
        let mut first = None;
        for (idx, Bound { sql, arguments }) in write.statements.iter().enumerate() {
            let statement: Statement = sqlx::query_with(*sql, arguments.clone());
            let row = statement.fetch_optional(&mut *connection).await;
            let row = row.map_err(Failed::Statement)?;
            if idx == 0 {
                first = row;
            }
        }
        rows.push(first);
    }
    let committed = sqlx::query("COMMIT").execute(connection).await;
    committed.map_err(Failed::Transaction)?;
    Ok(rows)
}

impl Write {
    fn answer(self, result: Result<Option<SqliteRow>, RecordsError>) {
        // Whoever asked may be gone; what is committed stays.
        let _ = self.reply.send(result);
    }
}

impl Failed {
    fn into_inner(self) -> sqlx::Error {
        match self {
            Self::Statement(error) | Self::Transaction(error) => error,
        }
    }
}
