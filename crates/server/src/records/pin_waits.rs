//! Who cannot learn the pin of a new certificate authority over a session: clients that are not approved
//! yet, and the machines that an earlier invite will enrol.

use chrono::{DateTime, Utc};
use filepull_core::fingerprint::Fingerprint;

use super::Records;
use super::error::RecordsError;
use super::statement::Statement;

const PENDING: &str =
    "SELECT COUNT(*) AS n FROM client_keys WHERE pending = 1 AND NOT pins LIKE $1";

const INVITES: &str = "SELECT COUNT(*) AS n FROM invites \
     WHERE created_at < $1 AND expires_at > $2 AND used < uses";

/// How many machines cannot learn a pin over a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinWaits {
    /// Clients that wait for approval and do not have the pin.
    pub(crate) n_pending: u64,
    /// Invites without the pin that can still be used.
    pub(crate) n_invites: u64,
}

impl Records {
    /// Counts who does not have `pin`, which invites hold since `announced_at`.
    pub(crate) async fn pin_waits(
        &self,
        pin: &Fingerprint,
        announced_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<PinWaits, RecordsError> {
        let pending = Statement::new(PENDING).bind(format!("%{}%", pin.digest()));
        let invites = Statement::new(INVITES)
            .bind(announced_at.timestamp_millis())
            .bind(now.timestamp_millis());
        Ok(PinWaits {
            n_pending: self.count_waiting(pending).await?,
            n_invites: self.count_waiting(invites).await?,
        })
    }

    async fn count_waiting(&self, count: Statement) -> Result<u64, RecordsError> {
        let rows = self.readers.list(count).await?;
        let n = rows.first().and_then(|row| row.integer("n")).unwrap_or_default();
        Ok(n.cast_unsigned())
    }
}
