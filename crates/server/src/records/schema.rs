//! The database file: how it is opened, and how it becomes the schema that this version knows.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};

use super::RecordsError;

/// What turns version `n` of the schema into version `n + 1`. Steps are added, never edited.
const STEPS: [&str; 2] = [include_str!("schema.sql"), include_str!("schema-2.sql")];

/// Nobody else writes, but an operator's `sqlite3` may hold a lock for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Two lists at once; whoever comes third waits for one of them.
const READERS: u32 = 2;

/// Opens the one connection that writes, and brings the schema up to date.
///
/// # Errors
/// A newer version made the file, or it cannot be opened or changed.
pub(super) async fn open_writer(file: &Path) -> Result<SqliteConnection, RecordsError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL syncs the log at each commit: what has been answered survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.connect().await?;
    let known = STEPS.len();
    let version = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection);
    let found: i64 = version.await?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    if known < done {
        return Err(RecordsError::TooNew { file: file.to_owned(), found, known });
    }
    for (n_done, step) in STEPS.iter().enumerate().skip(done) {
        take_step(&mut connection, step, n_done + 1).await?;
    }
    Ok(connection)
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
    let options =
        SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new().max_connections(READERS).test_before_acquire(false);
    pool.connect_with(options).await
}
