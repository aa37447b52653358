//! The records as another process reads them: beside the server that writes them, or without one.
//!
//! Nothing is held between two pages: a log that somebody reads cannot be emptied, and would grow.

use std::path::Path;

use filepull_core::id::ClientId;
use filepull_core::transfer::Transfer;
use sqlx::Row as _;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::fields::Fields;
use super::{RecordsError, schema, transfers};

const HAS_CLIENT: &str = "SELECT COUNT(*) FROM clients WHERE id = $1";

const CLIENTS: &str = "SELECT DISTINCT client AS id FROM transfers ORDER BY client";

const TOTALS: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(download_size), 0) AS BIGINT) \
     FROM transfers WHERE state = 'done' AND ($1 IS NULL OR client = $1)";

const PAGE: &str = "SELECT * FROM transfers WHERE client = $1 AND id > $2 ORDER BY id LIMIT $3";

/// A handle that can only read; cheap to clone.
#[derive(Clone, Debug)]
pub struct RecordsReader {
    readers: SqlitePool,
}

/// Goes through the transfers of one client, oldest first.
#[derive(Debug)]
pub struct ClientTransfers {
    readers: SqlitePool,
    client: ClientId,
    /// The id of the last row seen. Text, as it is in the row: it may be damaged.
    seen: String,
}

/// The downloads on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownloadTotals {
    /// How many.
    pub count: u64,
    /// Their sizes.
    pub bytes: u64,
}

impl RecordsReader {
    /// Opens the records in `folder`, whoever else uses them.
    ///
    /// # Errors
    /// There are none, another version made them, or the disk failed.
    pub async fn open(folder: &Path) -> Result<Self, RecordsError> {
        let file = folder.join("records.db");
        let failed = |source| RecordsError::Folder { folder: folder.to_owned(), source };
        std::fs::metadata(&file).map_err(failed)?;
        Ok(Self { readers: schema::open_beside(&file).await? })
    }

    /// Has this client ever connected?
    ///
    /// # Errors
    /// The database failed.
    pub async fn has_client(&self, client: &ClientId) -> Result<bool, RecordsError> {
        let found = sqlx::query(HAS_CLIENT).bind(client.as_str()).fetch_one(&self.readers).await?;
        Ok(found.try_get::<i64, _>(0)? != 0)
    }

    /// Every client that has a transfer on record.
    ///
    /// # Errors
    /// The database failed. An id that cannot be read is an error in its place.
    pub async fn clients(&self) -> Result<Vec<Result<ClientId, RecordsError>>, RecordsError> {
        let rows = sqlx::query(CLIENTS).fetch_all(&self.readers).await?;
        let read = |row: &SqliteRow| {
            Fields::new("client", row).parse("id", |text| ClientId::parse(text).ok())
        };
        Ok(rows.iter().map(read).collect())
    }

    /// How much there is to verify: of one client, or of all.
    ///
    /// # Errors
    /// The database failed.
    pub async fn totals(&self, client: Option<&ClientId>) -> Result<DownloadTotals, RecordsError> {
        let totals = sqlx::query(TOTALS).bind(client.map(ClientId::as_str));
        let row = totals.fetch_one(&self.readers).await?;
        let number = |idx: usize| row.try_get::<i64, _>(idx).map(i64::cast_unsigned);
        Ok(DownloadTotals { count: number(0)?, bytes: number(1)? })
    }

    /// The transfers of a client.
    pub fn transfers_of(&self, client: ClientId) -> ClientTransfers {
        ClientTransfers { readers: self.readers.clone(), client, seen: String::new() }
    }
}

impl ClientTransfers {
    /// The next ones, as they now are; `None` after the last.
    ///
    /// # Errors
    /// The database failed. A record that cannot be read is an error in its place.
    pub async fn next(
        &mut self,
        limit: u32,
    ) -> Result<Option<Vec<Result<Transfer, RecordsError>>>, RecordsError> {
        let page = sqlx::query(PAGE).bind(self.client.as_str()).bind(&self.seen).bind(limit);
        let rows = page.fetch_all(&self.readers).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        self.seen = Fields::new("transfer", last).get("id")?;
        Ok(Some(rows.iter().map(transfers::read).collect()))
    }
}
