//! An SQLite file of sales, and a change of one page in a hundred.

use std::path::Path;

use fastrand::Rng;
use rusqlite::{Connection, params};

const PAGE_LEN: u64 = 4096;

/// One page of this number changes.
const CHANGED_RATIO: u64 = 100;

/// Rows that are inserted between two checks of the size.
const N_BATCH: u32 = 200;

/// Creates a database of at least `size` bytes, rounded up to a batch of rows.
pub(crate) fn create(path: &Path, rng: &mut Rng, size: u64) -> anyhow::Result<()> {
    let mut connection = open(path)?;
    connection.execute_batch(
        "CREATE TABLE sales (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, till INTEGER NOT NULL,
         item TEXT NOT NULL, price INTEGER NOT NULL, signature TEXT NOT NULL)",
    )?;
    let transaction = connection.transaction()?;
    let mut at = 1_772_434_800;
    while count(&transaction, "PRAGMA page_count")? * PAGE_LEN < size {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO sales (at, till, item, price, signature) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for _ in 0..N_BATCH {
            at += rng.i64(1..30);
            let item = format!("item number {:05}, sold by the piece", rng.u32(..20_000));
            let row = params![at, rng.u32(1..13), item, rng.u32(50..5000), signature(rng)];
            insert.execute(row)?;
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Changes one row in each hundred pages. All rows keep their length, so no other page changes, but
/// for the first one, which counts the changes.
pub(crate) fn change(path: &Path, rng: &mut Rng) -> anyhow::Result<()> {
    let mut connection = open(path)?;
    let n_changes = count(&connection, "PRAGMA page_count")? / CHANGED_RATIO;
    let n_rows = count(&connection, "SELECT count(*) FROM sales")?;
    let transaction = connection.transaction()?;
    for n in 0..n_changes {
        let id = rng.u64(n * n_rows / n_changes..(n + 1) * n_rows / n_changes) + 1;
        let update = "UPDATE sales SET signature = ?1 WHERE id = ?2";
        transaction.execute(update, params![signature(rng), i64::try_from(id)?])?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Opens a database whose bytes depend on its content only: without a journal beside it.
fn open(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_LEN}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF"
    ))?;
    Ok(connection)
}

fn count(connection: &Connection, query: &str) -> anyhow::Result<u64> {
    let count: i64 = connection.query_row(query, (), |row| row.get(0))?;
    Ok(u64::try_from(count)?)
}

/// Returns text that cannot be compressed to less than half.
fn signature(rng: &mut Rng) -> String {
    format!("{:032x}{:032x}", rng.u128(..), rng.u128(..))
}
