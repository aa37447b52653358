//! Finds every client that ever connected. A connected client comes from the registry, an offline
//! client from the records.
//!
//! A client stays in the registry until the end of its session is on record, so it is always in at
//! least one of the two. Nothing is stored here.

mod list;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};

use crate::client::ClientRecord;
use crate::records::{ClientOrder, ClientSearch, Records, RecordsError};
use crate::registry::{ClientView, Registry};
use crate::scope::Scope;
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

    /// Returns the clients that a caller with this scope may see.
    pub(crate) fn within(&self, scope: &Scope) -> ScopedClients {
        ScopedClients { known: self.clone(), scope: scope.clone() }
    }

    /// Returns all clients, for acts that concern every client or that have checked the scope already.
    pub(crate) fn everything(&self) -> ScopedClients {
        self.within(&Scope::Everything)
    }

    /// Returns the number of connected clients.
    pub(crate) fn n_online(&self) -> usize {
        self.registry.n_online()
    }
}

/// The clients in the scope of a caller.
#[derive(Clone, Debug)]
pub(crate) struct ScopedClients {
    known: KnownClients,
    scope: Scope,
}

impl ScopedClients {
    /// Returns a client that connected at any time. Checks the registry first, then the records.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn client(&self, id: &ClientId) -> Result<Option<ClientView>, RecordsError> {
        let KnownClients { registry, records } = &self.known;
        if !records.is_in_scope(id, &self.scope).await? {
            return Ok(None);
        }
        if let Some(client) = registry.client(id) {
            return Ok(Some(client));
        }
        let record = records.client(id).await?;
        // The client may have connected meanwhile.
        Ok(registry.client(id).or(record.map(ClientView::offline)))
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
            None => Err(self.unknown(id, failed).await),
        }
    }

    /// Checks that the caller may see a client. For a scope of every client it reads nothing.
    ///
    /// # Errors
    /// As [`known`](Self::known).
    pub(crate) async fn check(
        &self,
        id: &ClientId,
        failed: impl Fn(&RecordsError) -> Problem,
    ) -> Result<(), Problem> {
        match self.known.records.is_in_scope(id, &self.scope).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.unknown(id, failed).await),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Returns whether the scope is every client.
    pub(crate) fn see_everything(&self) -> bool {
        self.scope.is_everything()
    }

    async fn unknown(&self, id: &ClientId, failed: impl Fn(&RecordsError) -> Problem) -> Problem {
        let similar = match self.suggest(id).await {
            Ok(similar) => similar,
            Err(error) => return failed(&error),
        };
        let question = similar.map(|similar| format!(" Did you mean {similar}?"));
        let hint = question.unwrap_or_default();
        let detail = format!("No client called {id} has ever connected.{hint}");
        Problem::new(Code::ClientUnknown, detail)
    }

    /// Returns how many clients are connected, and how many are known; none if the records of a
    /// limited scope cannot be read.
    pub(crate) async fn counts(&self) -> ClientCounts {
        let KnownClients { registry, records } = &self.known;
        if self.scope.is_everything() {
            let known = usize::try_from(records.n_clients().await).unwrap_or(usize::MAX);
            return ClientCounts { online: registry.n_online(), known };
        }
        let known = records.n_clients_in(&self.scope).await.unwrap_or_default();
        let ids = self.ids().await.unwrap_or(ScopedIds::Some(HashSet::new()));
        let online = registry.last_seen(|record, is_online| is_online && ids.contain(&record.id));
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        ClientCounts { online: online.len(), known }
    }

    /// Returns the first `limit` ids of connected clients, sorted; none if the records of a limited
    /// scope cannot be read.
    pub(crate) async fn first_online(&self, limit: usize) -> Vec<ClientId> {
        let ids = self.ids().await.unwrap_or(ScopedIds::Some(HashSet::new()));
        let is_wanted = |record: &ClientRecord, is_online| is_online && ids.contain(&record.id);
        let online = self.known.registry.clients_after(None, is_wanted, limit);
        online.into_iter().map(|client| client.record.id).collect()
    }

    /// Returns the id of a client for an example in a text: a connected client if there is one.
    pub(crate) async fn example(&self) -> Option<ClientId> {
        if let Some(online) = self.first_online(1).await.pop() {
            return Some(online);
        }
        let records = &self.known.records;
        let page = records
            .client_page(ClientOrder::Id, None, ClientSearch::default(), &self.scope, 1)
            .await
            .ok()?;
        page.entries.into_iter().next().map(|entry| entry.id)
    }

    /// Returns the ids in scope, for what is not in the records.
    pub(crate) async fn ids(&self) -> Result<ScopedIds, RecordsError> {
        let ids = self.known.records.clients_in_scope(&self.scope).await?;
        Ok(ids.map_or(ScopedIds::All, ScopedIds::Some))
    }
}

/// The ids of the clients in scope.
#[derive(Clone, Debug)]
pub(crate) enum ScopedIds {
    All,
    Some(HashSet<ClientId>),
}

impl ScopedIds {
    pub(crate) fn contain(&self, id: &ClientId) -> bool {
        match self {
            Self::All => true,
            Self::Some(ids) => ids.contains(id),
        }
    }
}

/// A client, and the time of its last message.
type Seen = (ClientId, DateTime<Utc>);
