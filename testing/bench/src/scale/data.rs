//! Data folders of a given size, generated once for each schema and kept for the next run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use filepull_core::digest::Digest;
use filepull_core::transfer::Transfer;
use filepull_server::data_folder::RECORDS_FOLDER;
use filepull_server::records::Records;
use rusqlite::Connection;

use crate::records::generate::{client, create_downloads, fill_records, run_all};
use crate::report::log_progress;
use crate::server::ServerProcess;

/// The content of a data folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataSize {
    pub(super) records: u32,
    pub(super) clients: u32,
    pub(super) waiting: u32,
}

impl DataSize {
    fn name(self) -> String {
        let Self { records, clients, waiting } = self;
        format!("{records}-{clients}-{waiting}")
    }
}

/// The tables that are filled.
const TABLES: [&str; 2] = ["clients", "transfers"];

/// A deadline far ahead: a waiting transfer must not end while the folder is kept.
const QUEUE: TimeDelta = TimeDelta::days(365);

/// Data folders for one version of the program.
pub(super) struct DataCache {
    folder: PathBuf,
    program: PathBuf,
    /// The digest of the definitions that the program creates.
    schema: String,
}

impl DataCache {
    /// Starts the program once, to read its schema.
    pub(super) async fn open(folder: &Path, program: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let empty = tempfile::tempdir_in(folder)?;
        let server = ServerProcess::start(program, empty.path()).await?;
        server.process.kill().await?;
        let schema = schema(&Connection::open(database(empty.path()))?)?;
        Ok(Self { folder: folder.to_owned(), program: program.to_owned(), schema })
    }

    /// Returns the data folder of this size, in which a server can run.
    pub(super) async fn data(&self, size: DataSize) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{}-{}", size.name(), self.schema));
        if path.is_dir() {
            return Ok(path);
        }
        let filled = self.filled(size).await?;
        log_progress(format!("copying {} into this program's schema", size.name()));
        // Complete before it gets its name.
        let building = tempfile::tempdir_in(&self.folder)?;
        let server = ServerProcess::start(&self.program, building.path()).await?;
        server.process.kill().await?;
        copy(&filled, &database(building.path()))?;
        create_downloads(&building.path().join("server-data"), size.records, size.clients)?;
        fs::rename(building.keep(), &path)?;
        Ok(path)
    }

    /// Returns a database of this size, in the schema of this program's library.
    async fn filled(&self, size: DataSize) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("filled-{}", size.name()));
        if !path.is_dir() {
            log_progress(format!("creating {} (records, clients, waiting)", size.name()));
            let building = tempfile::tempdir_in(&self.folder)?;
            fill(building.path(), size).await?;
            fs::rename(building.keep(), &path)?;
        }
        Ok(path.join("records.db"))
    }
}

/// Fills a database in `folder`.
async fn fill(folder: &Path, size: DataSize) -> anyhow::Result<()> {
    let records = Records::open(folder).await?;
    fill_records(&records, size.records, size.clients).await?;
    let waiting = (0..size.waiting).map(|number| {
        let records = &records;
        async move {
            let by = "curl from 127.0.0.1".to_owned();
            let mut transfer = Transfer::new(client(number)?, None, by, Utc::now());
            transfer.queue_until = Some(transfer.created_at + QUEUE);
            anyhow::Ok(records.save(&transfer).await?)
        }
    });
    run_all(waiting).await?;
    records.close().await?;
    // All clients are offline.
    let connection = Connection::open(folder.join("records.db"))?;
    connection.execute("UPDATE clients SET connected = 0", ())?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Copies the rows of one database into another. Copies only the columns that both tables have.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let connection = Connection::open(to)?;
    let from = from.to_str().context("the path of the cache is not UTF-8")?;
    connection.execute("ATTACH DATABASE ?1 AS filled", [from])?;
    for table in TABLES {
        let filled = columns(&connection, "filled", table)?;
        let mut names = columns(&connection, "main", table)?;
        names.retain(|name| filled.contains(name));
        anyhow::ensure!(!names.is_empty(), "there is no table {table}");
        let common = names.join(", ");
        let insert =
            format!("INSERT INTO main.{table} ({common}) SELECT {common} FROM filled.{table}");
        connection.execute(&insert, ())?;
    }
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn columns(connection: &Connection, database: &str, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut prepared = connection.prepare("SELECT name FROM pragma_table_info(?1, ?2)")?;
    prepared.query_map([table, database], |row| row.get(0))?.collect()
}

fn schema(connection: &Connection) -> rusqlite::Result<String> {
    let definitions = "SELECT name, COALESCE(sql, '') FROM sqlite_schema ORDER BY name";
    let mut prepared = connection.prepare(definitions)?;
    let mapped = prepared.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = mapped.collect::<rusqlite::Result<Vec<(String, String)>>>()?;
    let mut digest = Digest::of(format!("{rows:?}").as_bytes()).to_string();
    digest.truncate(12);
    Ok(digest)
}

fn database(folder: &Path) -> PathBuf {
    folder.join("server-data").join(RECORDS_FOLDER).join("records.db")
}

#[cfg(test)]
mod tests {
    use filepull_server::records::{Total, TransferFilter};

    use super::*;

    #[tokio::test]
    async fn every_record_can_be_read_after_the_copy() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fill(&from, DataSize { records: 200, clients: 50, waiting: 5 }).await?;
        Records::open(&to).await?.close().await?;
        copy(&from.join("records.db"), &to.join("records.db"))?;
        let records = Records::open(&to).await?;
        assert_eq!(records.n_clients().await, 50);
        let page = records.transfers(&TransferFilter { limit: 1000, ..Default::default() }).await?;
        assert_eq!(page.total, Total::Exactly(205));
        let unfinished = records.unfinished().await?;
        assert_eq!((unfinished.transfers.len(), unfinished.damaged.len()), (5, 0));
        let known = records.client(&client(49)?).await?.context("it is known")?;
        assert!(!known.online_before);
        records.close().await?;
        Ok(())
    }

    #[test]
    fn a_column_that_one_side_lacks_is_left_out() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let [from, to] = ["from.db", "to.db"].map(|name| folder.path().join(name));
        for (file, column) in [(&from, "old"), (&to, "new")] {
            let connection = Connection::open(file)?;
            connection.execute_batch(&format!(
                "CREATE TABLE clients (id TEXT, {column} TEXT); CREATE TABLE transfers (id TEXT)"
            ))?;
        }
        Connection::open(&from)?.execute("INSERT INTO clients VALUES ('a', 'b')", ())?;
        copy(&from, &to)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let copied: (String, Option<String>) =
            Connection::open(&to)?.query_row("SELECT id, new FROM clients", (), read)?;
        assert_eq!(copied, ("a".to_owned(), None));
        assert_ne!(schema(&Connection::open(&from)?)?, schema(&Connection::open(&to)?)?);
        Ok(())
    }
}
