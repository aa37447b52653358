//! Reads the records from another process than the server's, with or without a running server.

use std::path::Path;

use filepull_core::id::ClientId;
use filepull_core::transfer::Transfer;
use tokio::task::spawn_blocking;

use super::clients::read_id;
use super::error::RecordsError;
use super::file_damage::FileDamage;
use super::readers::Pool;
use super::statement::Statement;
use super::walk::RowWalk;
use super::{schema, transfer_row};

const HAS_CLIENT: &str = "SELECT 1 FROM clients WHERE id = $1";

const CLIENTS: &str = "SELECT DISTINCT client AS id FROM transfers ORDER BY client";

/// There are two statements, because PostgreSQL cannot infer the type of a parameter that is only
/// compared with NULL.
const TOTALS: &str = "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(download_size), 0) AS BIGINT) AS bytes \
     FROM transfers WHERE state = 'done'";

const TOTALS_OF_CLIENT: &str = "SELECT COUNT(*) AS n, \
     CAST(COALESCE(SUM(download_size), 0) AS BIGINT) AS bytes \
     FROM transfers WHERE state = 'done' AND client = $1";

const OF_CLIENT: &str = "SELECT * FROM transfers WHERE client = ";

/// A handle that can only read; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RecordsReader {
    readers: Pool,
}

/// A scan of the transfers of one client, oldest first.
#[derive(Debug)]
pub(crate) struct ClientTransfers {
    readers: Pool,
    client: ClientId,
    walk: RowWalk,
}

/// The downloads on record, in total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownloadTotals {
    /// The number of downloads on record.
    pub count: u64,
    /// The sum of their sizes, in bytes.
    pub bytes: u64,
}

impl RecordsReader {
    /// Opens the records in `folder`. Other processes may use them.
    ///
    /// # Errors
    /// There are no records, another version wrote them, or the disk failed.
    pub(crate) async fn open(folder: &Path) -> Result<Self, RecordsError> {
        let file = folder.join("records.db");
        let failed = |source| RecordsError::Folder { folder: folder.to_owned(), source };
        std::fs::metadata(&file).map_err(failed)?;
        let damage = FileDamage::new(&file);
        let opened = spawn_blocking(move || schema::open_beside(&file)).await;
        let connection = opened.map_err(|_| RecordsError::Closed)??;
        Ok(Self { readers: Pool::new(vec![connection], damage) })
    }

    /// Returns the connections, for another scan.
    pub(crate) fn pool(&self) -> Pool {
        self.readers.clone()
    }

    /// Returns whether this client has ever connected.
    pub(crate) async fn has_client(&self, client: &ClientId) -> Result<bool, RecordsError> {
        let found = self.readers.rows(Statement::new(HAS_CLIENT).bind(client.as_str())).await?;
        Ok(!found.is_empty())
    }

    /// Returns every client that has a transfer on record. An id that cannot be read is an error in
    /// the list.
    pub(crate) async fn clients(
        &self,
    ) -> Result<Vec<Result<ClientId, RecordsError>>, RecordsError> {
        let rows = self.readers.rows(Statement::new(CLIENTS)).await?;
        Ok(rows.iter().map(read_id).collect())
    }

    /// Returns how much there is to verify, for one client or for all clients.
    pub(crate) async fn totals(
        &self,
        client: Option<&ClientId>,
    ) -> Result<DownloadTotals, RecordsError> {
        let totals = match client {
            None => Statement::new(TOTALS),
            Some(client) => Statement::new(TOTALS_OF_CLIENT).bind(client.as_str()),
        };
        let rows = self.readers.rows(totals).await?;
        let number = |column| rows.first().and_then(|row| row.integer(column)).unwrap_or(0);
        Ok(DownloadTotals {
            count: number("n").cast_unsigned(),
            bytes: number("bytes").cast_unsigned(),
        })
    }

    /// Starts a scan of the transfers of a client.
    pub(crate) fn transfers_of(&self, client: ClientId) -> ClientTransfers {
        ClientTransfers { readers: self.readers.clone(), client, walk: RowWalk::default() }
    }
}

impl ClientTransfers {
    /// Reads the next `limit` transfers, or returns `None` after the last. A record that cannot be
    /// read is an error in the list.
    pub(crate) async fn next(
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
        self.walk.advance(&mut rows, limit);
        Ok(Some(rows.iter().map(transfer_row::read).collect()))
    }
}
