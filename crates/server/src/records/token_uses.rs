//! The table `token_uses`: when each token was last used, to the minute.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Records;
use super::error::RecordsError;
use super::reader::RecordsReader;
use super::statement::Statement;

const NOTE: &str = "INSERT INTO token_uses (name, last_used_at) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET last_used_at = excluded.last_used_at";

const ALL: &str = "SELECT name, last_used_at FROM token_uses";

impl Records {
    /// Records when tokens were last used. After an error this may be durable or not.
    pub(crate) async fn note_token_uses(
        &self,
        uses: &[(Arc<str>, DateTime<Utc>)],
    ) -> Result<(), RecordsError> {
        let note = |(name, at): &(Arc<str>, DateTime<Utc>)| {
            Statement::new(NOTE).bind(&**name).bind(at.timestamp_millis())
        };
        self.writer.write_all(uses.iter().map(note).collect()).await.map(drop)
    }
}

impl RecordsReader {
    /// Returns when each token was last used. Leaves out a row that cannot be read.
    pub(crate) async fn token_uses(&self) -> Result<HashMap<String, DateTime<Utc>>, RecordsError> {
        let rows = self.pool().rows(Statement::new(ALL)).await?;
        let uses = rows.iter().filter_map(|row| {
            let at = DateTime::from_timestamp_millis(row.integer("last_used_at")?)?;
            Some((row.text("name")?.to_owned(), at))
        });
        Ok(uses.collect())
    }
}
