//! The connections that read. They see committed rows and never wait for the writer.
//!
//! Each query runs on a thread for blocking work, never on a thread of the runtime. Reads of one row
//! have their own connections, so that they never wait for a list.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::error::RecordsError;
use super::file_damage::FileDamage;
use super::schema;
use super::statement::{Row, Statement};

/// Number of connections for reads of one row.
const N_POINT_READERS: u32 = 2;

/// Number of connections for lists. A third list waits until a connection is idle.
const N_LIST_READERS: u32 = 2;

/// A handle on the connections that read; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    points: Pool,
    lists: Pool,
}

impl Readers {
    /// Opens all connections to a database, which note its damage.
    pub(crate) fn open(file: &Path, damage: &FileDamage) -> rusqlite::Result<Self> {
        let open = |n| (0..n).map(|_| schema::open_reader(file)).collect::<Result<Vec<_>, _>>();
        let points = Pool::new(open(N_POINT_READERS)?, damage.clone());
        Ok(Self { points, lists: Pool::new(open(N_LIST_READERS)?, damage.clone()) })
    }

    /// Reads the first row of the result.
    pub(crate) async fn point(&self, statement: Statement) -> Result<Option<Row>, RecordsError> {
        Ok(self.points.rows(statement).await?.into_iter().next())
    }

    /// Reads a few rows that are adjacent in an index.
    pub(crate) async fn few(&self, statement: Statement) -> Result<Vec<Row>, RecordsError> {
        self.points.rows(statement).await
    }

    /// Reads many rows on a connection for lists.
    pub(crate) async fn list(&self, statement: Statement) -> Result<Vec<Row>, RecordsError> {
        self.lists.rows(statement).await
    }

    /// Runs many statements on one snapshot of the records and returns the rows of all, in order.
    pub(crate) async fn each(&self, statements: Vec<Statement>) -> Result<Vec<Row>, RecordsError> {
        self.lists.rows_of_each(statements).await
    }

    /// Waits for running queries, then closes the connections.
    pub(crate) async fn close(&self) {
        self.points.close().await;
        self.lists.close().await;
    }
}

/// A pool of connections, each of which runs one query at a time; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    n_connections: u32,
    /// One permit per idle connection.
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
    damage: FileDamage,
}

impl Pool {
    pub(crate) fn new(connections: Vec<Connection>, damage: FileDamage) -> Self {
        let n_connections = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let permits = Arc::new(Semaphore::new(connections.len()));
        Self { n_connections, permits, idle: Arc::new(Mutex::new(connections)), damage }
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn rows(&self, statement: Statement) -> Result<Vec<Row>, RecordsError> {
        self.rows_of_each(vec![statement]).await
    }

    async fn rows_of_each(&self, statements: Vec<Statement>) -> Result<Vec<Row>, RecordsError> {
        let acquired = Arc::clone(&self.permits).acquire_owned().await;
        let permit = acquired.map_err(|_| RecordsError::Closed)?;
        let idle = Arc::clone(&self.idle);
        let damage = self.damage.clone();
        let job = move || {
            let take = || idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = take().ok_or(RecordsError::Closed)?;
            let rows = rows_of_each(&connection, &statements);
            // Returned here, so that a cancelled caller does not lose the connection.
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            rows.map_err(|error| damage.noted(error.into()))
        };
        spawn_blocking(job).await.map_err(|_| RecordsError::Closed)?
    }

    async fn close(&self) {
        let all = self.permits.acquire_many(self.n_connections).await;
        self.permits.close();
        drop(all);
        let idle = Arc::clone(&self.idle);
        let close = move || idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let _ = spawn_blocking(close).await; // fails only if the runtime has ended
    }
}

/// Runs the statements. Several see one snapshot: nothing is written between them.
fn rows_of_each(connection: &Connection, statements: &[Statement]) -> rusqlite::Result<Vec<Row>> {
    if let [only] = statements {
        return only.run(connection);
    }
    let snapshot = connection.unchecked_transaction()?;
    let rows = statements.iter().map(|statement| statement.run(&snapshot));
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_of_one_row_does_not_wait_for_lists() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.db");
        schema::open_writer(&file).unwrap();
        let readers = Readers::open(&file, &FileDamage::new(&file)).unwrap();
        let lists = readers.lists.permits.acquire_many(N_LIST_READERS).await.unwrap();
        let row = readers.point(Statement::new("SELECT 7 AS n")).await.unwrap().unwrap();
        assert_eq!(row.integer("n"), Some(7));
        drop(lists);
        assert_eq!(readers.list(Statement::new("SELECT 8 AS n")).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_cancelled_caller_loses_no_connection() {
        let damage = FileDamage::new(Path::new("records.db"));
        let pool = Pool::new(vec![Connection::open_in_memory().unwrap()], damage);
        for _ in 0..3 {
            let cancelled = pool.rows(Statement::new("SELECT 1"));
            drop(futures::poll!(std::pin::pin!(cancelled)));
        }
        assert_eq!(pool.rows(Statement::new("SELECT 1")).await.unwrap().len(), 1);
        pool.close().await;
        let closed = pool.rows(Statement::new("SELECT 1")).await;
        assert!(matches!(closed, Err(RecordsError::Closed)), "{closed:?}");
    }
}
