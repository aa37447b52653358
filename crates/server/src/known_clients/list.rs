//! Lists clients page by page. Merges the connected clients with the clients on record.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;

use super::{KnownClients, ScopedClients, ScopedIds, Seen};
use crate::client::ClientRecord;
use crate::records::{ClientListItem, ClientOrder, ClientSearch, RecordsError, Total};
use crate::registry::ClientView;

/// Selects the clients of a list, their order and one page.
#[derive(Clone, Debug)]
pub(crate) struct ClientFilter {
    /// Only connected clients, or only offline clients; none for both.
    pub online: Option<bool>,
    /// Only clients that wait for approval. None of them is connected.
    pub pending: bool,
    /// Only clients with this lower-case text in their id or hostname, in any letter case.
    pub wanted: String,
    pub order: ClientOrder,
    /// The last client of the previous page.
    pub after: Option<ClientListItem>,
    /// Maximum number of clients on the page.
    pub limit: usize,
}

/// One page of a list of clients.
#[derive(Clone, Debug)]
pub(crate) struct ClientList {
    /// Excludes a client whose record cannot be read; that is logged.
    pub clients: Vec<ClientView>,
    /// The `after` of the next page, if there is one.
    pub next: Option<ClientListItem>,
    /// The number of matching clients on all pages.
    pub total: Total,
}

/// How many entries are read at once after the first batch has not filled the page. That happens when
/// the page is for offline clients and most clients are connected.
const LONG_BATCH: u32 = 10_000;

impl ClientFilter {
    fn matches(&self, record: &ClientRecord, is_online: bool) -> bool {
        self.online.is_none_or(|online| online == is_online)
            && (!self.pending || record.is_pending())
            && [record.id.as_str(), &record.agent.hostname]
                .into_iter()
                .any(|text| text.to_ascii_lowercase().contains(&self.wanted))
    }

    /// Returns what the records search for.
    fn search(&self) -> ClientSearch<'_> {
        ClientSearch { wanted: &self.wanted, pending: self.pending }
    }

    fn key(&self, entry: &ClientListItem) -> (Reverse<DateTime<Utc>>, ClientId) {
        let seen = match self.order {
            ClientOrder::Id => DateTime::UNIX_EPOCH,
            ClientOrder::Seen => entry.last_seen_at,
        };
        (Reverse(seen), entry.id.clone())
    }

    /// Sorts the entries and returns the first `limit` plus one: the extra entry shows that there is a
    /// next page.
    fn cut(&self, mut entries: Vec<ClientListItem>) -> Vec<ClientListItem> {
        let after = self.after.as_ref().map(|after| self.key(after));
        entries.retain(|entry| after.as_ref().is_none_or(|after| *after < self.key(entry)));
        entries.sort_by_cached_key(|entry| self.key(entry));
        entries.truncate(self.limit + 1);
        entries
    }
}

impl ScopedClients {
    /// Returns a page of the clients that match.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn list(&self, filter: &ClientFilter) -> Result<ClientList, RecordsError> {
        let ids = self.ids().await?;
        let mut entries = match filter.online {
            Some(true) => self.registered(filter, &ids),
            Some(false) | None => self.merged(filter, &ids).await?,
        };
        let is_last = entries.len() <= filter.limit;
        entries.truncate(filter.limit);
        let next = entries.last().filter(|_| !is_last).cloned();
        let total = self.total(filter, &ids).await?;
        Ok(ClientList { clients: self.views(entries).await?, next, total })
    }

    /// Returns the entries of clients that the registry has.
    fn registered(&self, filter: &ClientFilter, ids: &ScopedIds) -> Vec<ClientListItem> {
        let registry = &self.known.registry;
        let matches = |record: &ClientRecord, is_online| {
            filter.matches(record, is_online) && ids.contain(&record.id)
        };
        let seen: Vec<Seen> = match filter.order {
            ClientOrder::Id => {
                let after = filter.after.as_ref().map(|after| &after.id);
                let clients = registry.clients_after(after, matches, filter.limit + 1);
                clients.into_iter().map(|client| (client.record.id, client.last_seen_at)).collect()
            }
            ClientOrder::Seen => registry.last_seen(matches),
        };
        let entry = |(id, last_seen_at)| ClientListItem { id, last_seen_at };
        filter.cut(seen.into_iter().map(entry).collect())
    }

    /// Returns the entries of clients that the registry or the records have.
    async fn merged(
        &self,
        filter: &ClientFilter,
        ids: &ScopedIds,
    ) -> Result<Vec<ClientListItem>, RecordsError> {
        let KnownClients { registry, records } = &self.known;
        let mut batch_len = u32::try_from(filter.limit).unwrap_or(u32::MAX).saturating_add(1);
        let mut on_record = Vec::new();
        let mut position = filter.after.clone();
        loop {
            let after = position.as_ref();
            let search = filter.search();
            let reading = records.client_page(filter.order, after, search, &self.scope, batch_len);
            let page = reading.await?;
            let end = page.entries.last().map(|entry| filter.key(entry));
            position = page.entries.last().cloned();
            on_record.extend(page.entries);
            // The records are read before the registry: a client that connects meanwhile is in both,
            // and a client that disconnects is still in the registry.
            let present: HashSet<ClientId> =
                registry.present(on_record.iter().map(|entry: &ClientListItem| &entry.id));
            on_record.retain(|entry| !present.contains(&entry.id));
            let mut entries = self.registered(filter, ids);
            let in_registry: HashSet<ClientId> =
                entries.iter().map(|entry| entry.id.clone()).collect();
            let only_on_record = on_record.iter().filter(|entry| !in_registry.contains(&entry.id));
            entries.extend(only_on_record.cloned());
            let entries = filter.cut(entries);
            // The remaining records follow the end of this batch.
            let is_known_up_to = |end| entries.last().is_some_and(|last| filter.key(last) <= end);
            let is_full = filter.limit < entries.len() && end.clone().is_some_and(is_known_up_to);
            if page.is_last || is_full || end.is_none() {
                return Ok(entries);
            }
            batch_len = LONG_BATCH;
        }
    }

    async fn views(&self, entries: Vec<ClientListItem>) -> Result<Vec<ClientView>, RecordsError> {
        let connected: Vec<Option<ClientView>> =
            entries.iter().map(|entry| self.known.registry.client(&entry.id)).collect();
        let offline = entries.iter().zip(&connected).filter(|(_, client)| client.is_none());
        let missing: Vec<ClientId> = offline.map(|(entry, _)| entry.id.clone()).collect();
        let records = self.known.records.clients(&missing).await?.into_iter();
        let mut on_record: HashMap<ClientId, ClientRecord> =
            records.map(|record| (record.id.clone(), record)).collect();
        let views = entries.into_iter().zip(connected).filter_map(|(entry, connected)| {
            connected.or_else(|| on_record.remove(&entry.id).map(ClientView::offline))
        });
        Ok(views.collect())
    }

    async fn total(&self, filter: &ClientFilter, ids: &ScopedIds) -> Result<Total, RecordsError> {
        let KnownClients { registry, records } = &self.known;
        let online = ClientFilter { online: Some(true), ..filter.clone() };
        let count_online = || {
            if online.wanted.is_empty() && self.scope.is_everything() {
                return registry.n_online() as u64;
            }
            let matches = |record: &ClientRecord, is_online| {
                online.matches(record, is_online) && ids.contain(&record.id)
            };
            registry.last_seen(matches).len() as u64
        };
        if filter.online == Some(true) {
            return Ok(Total::Exactly(count_online()));
        }
        if filter.pending {
            return records.count_clients(filter.search(), &self.scope).await;
        }
        let all = match filter.wanted.as_str() {
            "" if self.scope.is_everything() => Total::Exactly(records.n_clients().await),
            _ => records.count_clients(filter.search(), &self.scope).await?,
        };
        Ok(match (all, filter.online) {
            (Total::Exactly(all), Some(false)) => {
                Total::Exactly(all.saturating_sub(count_online()))
            }
            (Total::MoreThan(all), Some(false)) => {
                Total::MoreThan(all.saturating_sub(count_online()))
            }
            (all, _) => all,
        })
    }
}
