//! The records as another process reads them: beside the server that writes them, or without one.

use std::path::Path;

use filepull_core::id::ClientId;
use filepull_core::transfer::Transfer;
use tokio::task::spawn_blocking;

use super::fields::RowFields;
use super::readers::Pool;
use super::statement::{Row, Statement};
use super::walk::RowWalk;
use super::{RecordsError, schema, transfers};

const HAS_CLIENT: &str = "SELECT 1 FROM clients WHERE id = $1";

const CLIENTS: &str = "SELECT DISTINCT client AS id FROM transfers ORDER BY client";

/// Two statements: PostgreSQL cannot infer the type of a parameter that is only compared with NULL.
const TOTALS: &str = "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(download_size), 0) AS BIGINT) AS bytes \
     FROM transfers WHERE state = 'done'";

const TOTALS_OF_CLIENT: &str = "SELECT COUNT(*) AS n, \
     CAST(COALESCE(SUM(download_size), 0) AS BIGINT) AS bytes \
     FROM transfers WHERE state = 'done' AND client = $1";

const OF_CLIENT: &str = "SELECT * FROM transfers WHERE client = ";

/// A handle that can only read; cheap to clone.
#[derive(Clone, Debug)]
pub struct RecordsReader {
    readers: Pool,
}

/// Goes through the transfers of one client, oldest first.
#[derive(Debug)]
pub struct ClientTransfers {
    readers: Pool,
    client: ClientId,
    walk: RowWalk,
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
        let connection = spawn_blocking(move || schema::open_beside(&file)).await;
        let connection = connection.map_err(|_| RecordsError::Closed)??;
        Ok(Self { readers: Pool::new(vec![connection]) })
    }

    /// Has this client ever connected?
    ///
    /// # Errors
    /// The database failed.
    pub async fn has_client(&self, client: &ClientId) -> Result<bool, RecordsError> {
        let found = self.readers.rows(Statement::new(HAS_CLIENT).bind(client.as_str())).await?;
        Ok(!found.is_empty())
    }

    /// Every client that has a transfer on record.
    ///
    /// # Errors
    /// The database failed. An id that cannot be read is an error in its place.
    pub async fn clients(&self) -> Result<Vec<Result<ClientId, RecordsError>>, RecordsError> {
        let rows = self.readers.rows(Statement::new(CLIENTS)).await?;
        let read = |row: &Row| {
            RowFields::new("client", row).parse("id", |text| ClientId::parse(text).ok())
        };
        Ok(rows.iter().map(read).collect())
    }

    /// How much there is to verify: of one client, or of all.
    ///
    /// # Errors
    /// The database failed.
    pub async fn totals(&self, client: Option<&ClientId>) -> Result<DownloadTotals, RecordsError> {
        let totals = match client {
            None => Statement::new(TOTALS),
            Some(client) => Statement::new(TOTALS_OF_CLIENT).bind(client.as_str()),
        };
        let rows = self.readers.rows(totals).await?;
        let number = |column| rows.first().and_then(|row| row.integer(column)).unwrap_or(0);
        let (count, bytes) = (number("n").cast_unsigned(), number("bytes").cast_unsigned());
        Ok(DownloadTotals { count, bytes })
    }

    /// The transfers of a client.
    pub fn transfers_of(&self, client: ClientId) -> ClientTransfers {
        ClientTransfers { readers: self.readers.clone(), client, walk: RowWalk::default() }
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
        let mut of_client = Statement::new(OF_CLIENT);
        of_client.push_bind(self.client.as_str());
        let Some(page) = self.walk.next(of_client, limit) else { return Ok(None) };
        let mut rows = self.readers.rows(page).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        self.walk.moved(&mut rows, limit);
        Ok(Some(rows.iter().map(transfers::read).collect()))
    }
}
