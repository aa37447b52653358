//! Lists of clients, page by page: what is connected and what is on record, merged.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;

use super::{KnownClients, Seen};
use crate::client::ClientRecord;
use crate::records::{ClientListItem, ClientOrder, RecordsError, Total};
use crate::registry::ClientView;

/// Which clients to list.
#[derive(Clone, Debug)]
pub(crate) struct ClientFilter {
    /// Those that are connected, or those that are not.
    pub online: Option<bool>,
    /// Those with this text in their id or in the name of their machine, in any letter case.
    pub wanted: String,
    /// In which order.
    pub order: ClientOrder,
    /// Where an earlier page ended.
    pub after: Option<ClientListItem>,
    /// Maximum number of clients.
    pub limit: usize,
}

/// A page of clients.
#[derive(Clone, Debug)]
pub(crate) struct ClientList {
    /// The clients. One whose record cannot be read is left out, and the log says so.
    pub clients: Vec<ClientView>,
    /// Where the next page begins, if there is one.
    pub next: Option<ClientListItem>,
    /// How many match, on all pages.
    pub total: Total,
}

/// How many entries are read at once when only offline clients are wanted and most are connected.
const LONG_BATCH: u32 = 10_000;

impl ClientFilter {
    fn matches(&self, record: &ClientRecord, is_online: bool) -> bool {
        self.online.is_none_or(|online| online == is_online)
            && [record.id.as_str(), &record.agent.hostname]
                .into_iter()
                .any(|place| place.to_ascii_lowercase().contains(&self.wanted))
    }

    fn key(&self, entry: &ClientListItem) -> (Reverse<DateTime<Utc>>, ClientId) {
        let seen = match self.order {
            ClientOrder::Id => DateTime::UNIX_EPOCH,
            ClientOrder::Seen => entry.last_seen_at,
        };
        (Reverse(seen), entry.id.clone())
    }

    /// Sorts, and cuts to the limit plus one: the extra entry shows that there is a next page.
    fn cut(&self, mut entries: Vec<ClientListItem>) -> Vec<ClientListItem> {
        let after = self.after.as_ref().map(|after| self.key(after));
        entries.retain(|entry| after.as_ref().is_none_or(|after| *after < self.key(entry)));
        entries.sort_by_cached_key(|entry| self.key(entry));
        entries.truncate(self.limit + 1);
        entries
    }
}

impl KnownClients {
    /// A page of the clients that match.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn list(&self, filter: &ClientFilter) -> Result<ClientList, RecordsError> {
        let mut entries = match filter.online {
            Some(true) => self.held(filter),
            Some(false) | None => self.merged(filter).await?,
        };
        let is_last = entries.len() <= filter.limit;
        entries.truncate(filter.limit);
        let next = entries.last().filter(|_| !is_last).cloned();
        let total = self.total(filter).await?;
        Ok(ClientList { clients: self.views(entries).await?, next, total })
    }

    /// Those that the registry has.
    fn held(&self, filter: &ClientFilter) -> Vec<ClientListItem> {
        let matches = |record: &ClientRecord, is_online| filter.matches(record, is_online);
        let seen: Vec<Seen> = match filter.order {
            ClientOrder::Id => {
                let after = filter.after.as_ref().map(|after| &after.id);
                let clients = self.registry.clients_after(after, matches, filter.limit + 1);
                clients.into_iter().map(|client| (client.record.id, client.last_seen_at)).collect()
            }
            ClientOrder::Seen => self.registry.last_seen(matches),
        };
        let entry = |(id, last_seen_at)| ClientListItem { id, last_seen_at };
        filter.cut(seen.into_iter().map(entry).collect())
    }

    /// Those that the registry has, and those that only the records have.
    async fn merged(&self, filter: &ClientFilter) -> Result<Vec<ClientListItem>, RecordsError> {
        let mut batch_len = u32::try_from(filter.limit).unwrap_or(u32::MAX).saturating_add(1);
        let (mut on_record, mut position) = (Vec::new(), filter.after.clone());
        loop {
            let order = filter.order;
            let page =
                self.records.client_page(order, position.as_ref(), &filter.wanted, batch_len);
            let page = page.await?;
            let end = page.entries.last().map(|entry| filter.key(entry));
            position = page.entries.last().cloned();
            on_record.extend(page.entries);
            // In this order: a client that connects meanwhile is in both, and a client that
            // disconnects is still in the registry.
            let held: HashSet<ClientId> =
                self.registry.held(on_record.iter().map(|entry: &ClientListItem| &entry.id));
            on_record.retain(|entry| !held.contains(&entry.id));
            let mut entries = self.held(filter);
            let in_registry: HashSet<ClientId> =
                entries.iter().map(|entry| entry.id.clone()).collect();
            let only_on_record = on_record.iter().filter(|entry| !in_registry.contains(&entry.id));
            entries.extend(only_on_record.cloned());
            let entries = filter.cut(entries);
            // The remaining records are after the end of this batch.
            let is_known_up_to = |end| entries.last().is_some_and(|last| filter.key(last) <= end);
            let is_full = filter.limit < entries.len() && end.clone().is_some_and(is_known_up_to);
            if page.is_last || is_full || end.is_none() {
                return Ok(entries);
            }
            batch_len = LONG_BATCH;
        }
    }

    async fn views(&self, entries: Vec<ClientListItem>) -> Result<Vec<ClientView>, RecordsError> {
        let connected = entries.iter().map(|entry| self.registry.client(&entry.id));
        let connected: Vec<Option<ClientView>> = connected.collect();
        let missing = entries.iter().zip(&connected).filter(|(_, client)| client.is_none());
        let missing: Vec<ClientId> = missing.map(|(entry, _)| entry.id.clone()).collect();
        let records = self.records.clients(&missing).await?.into_iter();
        let mut on_record: HashMap<ClientId, ClientRecord> =
            records.map(|record| (record.id.clone(), record)).collect();
        let views = entries.into_iter().zip(connected).filter_map(|(entry, connected)| {
            connected.or_else(|| on_record.remove(&entry.id).map(ClientView::offline))
        });
        Ok(views.collect())
    }

    async fn total(&self, filter: &ClientFilter) -> Result<Total, RecordsError> {
        let of = |online| ClientFilter { online, ..filter.clone() };
        let count_held = |filter: ClientFilter| {
            if filter.wanted.is_empty() && filter.online == Some(true) {
                return self.registry.n_online() as u64;
            }
            let matches = |record: &ClientRecord, is_online| filter.matches(record, is_online);
            self.registry.last_seen(matches).len() as u64
        };
        if filter.online == Some(true) {
            return Ok(Total::Exactly(count_held(of(Some(true)))));
        }
        let all = match filter.wanted.as_str() {
            "" => Total::Exactly(self.records.n_clients().await),
            wanted => self.records.count_clients(wanted).await?,
        };
        Ok(match (all, filter.online) {
            (Total::Exactly(all), Some(false)) => {
                Total::Exactly(all.saturating_sub(count_held(of(Some(true)))))
            }
            (Total::MoreThan(all), Some(false)) => {
                Total::MoreThan(all.saturating_sub(count_held(of(Some(true)))))
            }
            (all, _) => all,
        })
    }
}
