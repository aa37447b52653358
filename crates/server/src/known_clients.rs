//! Every client that ever connected: those that are connected as the registry has them, the others
//! as they are on record.
//!
//! A client is in the registry until the end of its session is on record, so it is always in one of
//! the two. Nothing is kept here.

mod list;
mod suggest;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};

use crate::records::{ClientOrder, Records, RecordsError};
use crate::registry::{ClientView, Registry};
pub(crate) use list::ClientFilter;

/// Finds clients. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct KnownClients {
    registry: Registry,
    records: Records,
}

/// How many clients there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientCounts {
    /// Connected now.
    pub online: usize,
    /// Connected now or at any time before.
    pub known: usize,
}

impl ClientCounts {
    /// Known and not connected.
    pub(crate) fn offline(self) -> usize {
        self.known.saturating_sub(self.online)
    }
}

impl KnownClients {
    /// Checks the registry first, then the records.
    pub(crate) fn new(registry: Registry, records: Records) -> Self {
        Self { registry, records }
    }

    /// One client.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn client(&self, id: &ClientId) -> Result<Option<ClientView>, RecordsError> {
        if let Some(client) = self.registry.client(id) {
            return Ok(Some(client));
        }
        let record = self.records.client(id).await?;
        // It may have connected meanwhile.
        Ok(self.registry.client(id).or(record.map(ClientView::offline)))
    }

    /// The client, if it is known.
    ///
    /// # Errors
    /// [`Code::ClientUnknown`], with the id that was probably meant; or the records cannot be read,
    /// which `failed` turns into a problem.
    pub(crate) async fn known(
        &self,
        id: &ClientId,
        failed: impl Fn(&RecordsError) -> Problem,
    ) -> Result<ClientView, Problem> {
        match self.client(id).await.map_err(|error| failed(&error))? {
            Some(client) => Ok(client),
            None => {
                let meant = self.suggest(id).await.map_err(|error| failed(&error))?;
                let meant = meant.map(|meant| format!(" Did you mean {meant}?"));
                let meant = meant.unwrap_or_default();
                let detail = format!("No client called {id} has ever connected.{meant}");
                Err(Problem::new(Code::ClientUnknown, detail))
            }
        }
    }

    /// How many clients there are.
    pub(crate) async fn counts(&self) -> ClientCounts {
        let known = usize::try_from(self.records.n_clients().await).unwrap_or(usize::MAX);
        ClientCounts { online: self.registry.n_online(), known }
    }

    /// How many clients are connected.
    pub(crate) fn n_online(&self) -> usize {
        self.registry.n_online()
    }

    /// The first ids of connected clients, sorted.
    pub(crate) fn first_online(&self, limit: usize) -> Vec<ClientId> {
        let online = self.registry.clients_after(None, |_, is_online| is_online, limit);
        online.into_iter().map(|client| client.record.id).collect()
    }
}

impl KnownClients {
    /// The id of a client for an example: one that is connected, if there is one.
    pub(crate) async fn example(&self) -> Option<ClientId> {
        if let Some(online) = self.first_online(1).pop() {
            return Some(online);
        }
        let page = self.records.client_page(ClientOrder::Id, None, "", 1).await.ok()?;
        page.entries.into_iter().next().map(|entry| entry.id)
    }
}

/// A client, and when it was last heard.
type Seen = (ClientId, DateTime<Utc>);
