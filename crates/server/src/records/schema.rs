//! Opens the database file, and updates its schema to the version of this build.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::RecordsError;

/// Step `n` updates the schema from version `n` to version `n + 1`. Steps are added, never edited.
const STEPS: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("trust.sql"),
    include_str!("digests.sql"),
    include_str!("scrubs.sql"),
    include_str!("bases.sql"),
];

/// Only this process writes, but an operator's `sqlite3` may hold a lock for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the connection that writes. Creates a missing file and updates the schema.
///
/// # Errors
/// A newer version wrote the file, it is damaged, or it cannot be opened or changed.
pub(crate) fn open_writer(file: &Path) -> Result<Connection, RecordsError> {
    let mut connection = Connection::open(file)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL syncs the log at each commit, so that an acknowledged write survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    let done = version(&connection, file)?;
    take_steps(&mut connection, done)?;
    check(&connection, file)?;
    Ok(connection)
}

/// Returns every definition in a database. SQLite stores them as text without a checksum. They are
/// read as bytes, because damaged text may be invalid UTF-8.
const DEFINITIONS: &str = "SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema";

type Definition = (Vec<u8>, Option<Vec<u8>>);

/// Checks that the database has every definition of a new database.
fn check(connection: &Connection, file: &Path) -> Result<(), RecordsError> {
    let mut fresh = Connection::open_in_memory()?;
    take_steps(&mut fresh, 0)?;
    let expected = definitions(&fresh)?;
    let found = definitions(connection)?;
    // An operator may have added an index.
    match expected.into_iter().find(|definition| !found.contains(definition)) {
        Some((name, _)) => {
            let name = String::from_utf8_lossy(&name).into_owned();
            Err(RecordsError::Schema { file: file.to_owned(), name })
        }
        None => Ok(()),
    }
}

fn definitions(connection: &Connection) -> rusqlite::Result<Vec<Definition>> {
    let mut prepared = connection.prepare(DEFINITIONS)?;
    prepared.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Returns the number of completed steps.
fn version(connection: &Connection, file: &Path) -> Result<usize, RecordsError> {
    let known = STEPS.len();
    let found: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    if known < done {
        return Err(RecordsError::TooNew { file: file.to_owned(), found, known });
    }
    Ok(done)
}

/// Runs every step that is not completed.
fn take_steps(connection: &mut Connection, done: usize) -> rusqlite::Result<()> {
    for (version, step) in (1..).zip(STEPS).skip(done) {
        // In one transaction, so that a step that a crash interrupts has no effect.
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Opens a connection that reads in the process of the server.
pub(crate) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    read_only(file, OpenFlags::empty())
}

/// Opens a connection that reads in another process than the server's.
///
/// # Errors
/// Another version wrote the file, it is damaged, or it cannot be opened.
pub(crate) fn open_beside(file: &Path) -> Result<Connection, RecordsError> {
    // Readers and a writer share memory through a file beside the database. On a read-only disk this
    // file cannot be created, but no process writes to the database either.
    match open_checked(file, OpenFlags::empty()) {
        Err(RecordsError::Database(_)) => {
            open_checked(&immutable(file), OpenFlags::SQLITE_OPEN_URI)
        }
        opened => opened,
    }
}

fn open_checked(file: &Path, flags: OpenFlags) -> Result<Connection, RecordsError> {
    let connection = read_only(file, flags)?;
    if version(&connection, file)? < STEPS.len() {
        return Err(RecordsError::TooOld { file: file.to_owned() });
    }
    check(&connection, file)?;
    Ok(connection)
}

fn read_only(file: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Returns the URI with which SQLite opens a file that no process changes.
fn immutable(file: &Path) -> PathBuf {
    let mut uri = "file:".to_owned();
    for &byte in file.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                uri.push(byte.into());
            }
            _ => {
                let _ = write!(uri, "%{byte:02x}"); // writing to a string cannot fail
            }
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}
