//! The database file: how it is opened, and how it becomes the schema that this version knows.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, SqliteConnection};

use super::RecordsError;

/// What turns version `n` of the schema into version `n + 1`. Steps are added, never edited.
const STEPS: [&str; 1] = [include_str!("schema.sql")];

/// Nobody else writes, but an operator's `sqlite3` may hold a lock for a moment.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Two lists at once; whoever comes third waits for one of them.
const READERS: u32 = 2;

/// Makes the file if it is missing, and brings the schema up to date.
///
/// # Errors
/// A newer version made the file, it is damaged, or it cannot be opened or changed.
pub(super) async fn make(file: &Path) -> Result<SqliteConnection, RecordsError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL syncs the log at each commit: what has been answered survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.connect().await?;
    let done = version(&mut connection, file).await?;
    take_steps(&mut connection, done).await?;
    check(&mut connection, file).await?;
    Ok(connection)
}

/// Every definition in a database: SQLite keeps them as text, without a check sum. As bytes,
/// because they may be no text any more.
const DEFINITIONS: &str = "SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema";

type Definition = (Vec<u8>, Option<Vec<u8>>);

/// Compares the definitions with those of a database that is made now.
async fn check(connection: &mut SqliteConnection, file: &Path) -> Result<(), RecordsError> {
    let mut fresh = SqliteConnectOptions::new().filename(":memory:").connect().await?;
    take_steps(&mut fresh, 0).await?;
    let expected: Vec<Definition> = sqlx::query_as(DEFINITIONS).fetch_all(&mut fresh).await?;
    fresh.close().await?;
    let found: Vec<Definition> = sqlx::query_as(DEFINITIONS).fetch_all(connection).await?;
    // Who has added an index of his own may keep it.
    match expected.into_iter().find(|definition| !found.contains(definition)) {
        Some((name, _)) => {
            let name = String::from_utf8_lossy(&name).into_owned();
            Err(RecordsError::Schema { file: file.to_owned(), name })
        }
        None => Ok(()),
    }
}

/// How many steps have been taken.
async fn version(connection: &mut SqliteConnection, file: &Path) -> Result<usize, RecordsError> {
    let known = STEPS.len();
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    if known < done {
        return Err(RecordsError::TooNew { file: file.to_owned(), found, known });
    }
    Ok(done)
}

/// Takes every step that has not been taken.
async fn take_steps(connection: &mut SqliteConnection, done: usize) -> Result<(), sqlx::Error> {
    for (n_done, step) in STEPS.iter().enumerate().skip(done) {
        take_step(connection, step, n_done + 1).await?;
    }
    Ok(())
}

async fn take_step(
    connection: &mut SqliteConnection,
    step: &str,
    version: usize,
) -> Result<(), sqlx::Error> {
    // One transaction: a step that a crash cuts in the middle has not been taken at all. An error
    // closes the connection, which rolls it back.
    let script = format!("BEGIN IMMEDIATE; {step}; PRAGMA user_version = {version}; COMMIT");
    sqlx::raw_sql(AssertSqlSafe(script)).execute(connection).await.map(drop)
}

/// Opens the connections that read. They see what is committed and never wait for the writer.
///
/// # Errors
/// The file cannot be opened.
pub(super) async fn open_readers(file: &Path) -> Result<SqlitePool, sqlx::Error> {
    pool(READERS).connect_with(read_only(file)).await
}

/// Opens a connection that reads in another process than the server's.
///
/// # Errors
/// Another version made the file, it is damaged, or it cannot be opened.
pub(super) async fn open_beside(file: &Path) -> Result<SqlitePool, RecordsError> {
    let opened = async |options| {
        let pool = pool(1).connect_with(options).await?;
        let mut connection = pool.acquire().await?;
        let done = version(&mut connection, file).await?;
        if done < STEPS.len() {
            return Err(RecordsError::TooOld { file: file.to_owned() });
        }
        check(&mut connection, file).await?;
        drop(connection);
        Ok(pool)
    };
    // Readers and a writer share memory through a file beside the database. Where that file cannot
    // be made, on a disk that nobody can write to, nobody writes to the database either.
    match opened(read_only(file)).await {
        Err(RecordsError::Database(_)) => opened(read_only(file).immutable(true)).await,
        opened => opened,
    }
}

fn read_only(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY_TIMEOUT)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false)
}
