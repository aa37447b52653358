//! Finds every client that ever connected. A connected client comes from the registry, an offline
//! client from the records.
//!
//! A client stays in the registry until the end of its session is on record, so it is always in at
//! least one of the two. Nothing is stored here.

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

/// How many clients are connected and how many are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientCounts {
    pub online: usize,
    /// Connected now or at any earlier time.
    pub known: usize,
}

impl ClientCounts {
    pub(crate) fn offline(self) -> usize {
        self.known.saturating_sub(self.online)
    }
}

impl KnownClients {
    pub(crate) fn new(registry: Registry, records: Records) -> Self {
        Self { registry, records }
    }

    /// Returns a client that connected at any time. Checks the registry first, then the records.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn client(&self, id: &ClientId) -> Result<Option<ClientView>, RecordsError> {
        if let Some(client) = self.registry.client(id) {
            return Ok(Some(client));
        }
        let record = self.records.client(id).await?;
        // The client may have connected meanwhile.
        Ok(self.registry.client(id).or(record.map(ClientView::offline)))
    }

    /// Returns a client that connected at any time, or a problem for the caller.
    ///
    /// # Errors
    /// [`Code::ClientUnknown`], with a similar known id if there is one. If the records cannot be
    /// read, the result of `failed`.
    pub(crate) async fn known(
        &self,
        id: &ClientId,
        failed: impl Fn(&RecordsError) -> Problem,
    ) -> Result<ClientView, Problem> {
        match self.client(id).await.map_err(|error| failed(&error))? {
            Some(client) => Ok(client),
            None => {
                let similar = self.suggest(id).await.map_err(|error| failed(&error))?;
                let question = similar.map(|similar| format!(" Did you mean {similar}?"));
                let hint = question.unwrap_or_default();
                let detail = format!("No client called {id} has ever connected.{hint}");
                Err(Problem::new(Code::ClientUnknown, detail))
            }
        }
    }

    /// Returns how many clients are connected, and how many are known.
    pub(crate) async fn counts(&self) -> ClientCounts {
        let known = usize::try_from(self.records.n_clients().await).unwrap_or(usize::MAX);
        ClientCounts { online: self.registry.n_online(), known }
    }

    /// Returns the number of connected clients.
    pub(crate) fn n_online(&self) -> usize {
        self.registry.n_online()
    }

    /// Returns the first `limit` ids of connected clients, sorted.
    pub(crate) fn first_online(&self, limit: usize) -> Vec<ClientId> {
        let online = self.registry.clients_after(None, |_, is_online| is_online, limit);
        online.into_iter().map(|client| client.record.id).collect()
    }

    /// Returns the id of a client for an example in a text: a connected client if there is one.
    pub(crate) async fn example(&self) -> Option<ClientId> {
        if let Some(online) = self.first_online(1).pop() {
            return Some(online);
        }
        let page = self.records.client_page(ClientOrder::Id, None, "", 1).await.ok()?;
        page.entries.into_iter().next().map(|entry| entry.id)
    }
}

/// A client, and the time of its last message.
type Seen = (ClientId, DateTime<Utc>);
