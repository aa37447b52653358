//! Lists the ids of clients page by page, and finds ids that are similar to a mistyped id.
//!
//! It reads only the columns of an index. The caller reads the rows of the clients that it shows.

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;

use super::Records;
use super::clients::read_id;
use super::error::RecordsError;
use super::fields::RowFields;
use super::list::Total;
use super::scope::push_in_scope;
use super::statement::{Row, Statement};
use crate::scope::Scope;

/// The order of a list of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientOrder {
    Id,
    /// By the time of the last message, newest first.
    Seen,
}

/// A client in a list. It is also the position at which the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientListItem {
    pub(crate) id: ClientId,
    /// The recorded time of the last message.
    pub(crate) last_seen_at: DateTime<Utc>,
}

/// What a client on record must match.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientSearch<'a> {
    /// Its id or host name contains this lower-case text, in any letter case. An empty text matches
    /// every client.
    pub(crate) wanted: &'a str,
    /// It waits for approval.
    pub(crate) pending: bool,
}

/// A page of the clients on record, connected or not.
#[derive(Clone, Debug)]
pub(crate) struct ClientPage {
    /// The clients that can be read.
    pub(crate) entries: Vec<ClientListItem>,
    pub(crate) is_last: bool,
}

/// Number of nearest ids on either side of a mistyped id.
const NEIGHBOURS: u32 = 64;

/// Maximum number of ids that differ by one letter. For a long id only some variants are tried.
const MAX_VARIANTS: usize = 1024;

/// The characters of an id in lower case.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789-_.";

const NEXT: &str = "SELECT id FROM clients WHERE lower(id) >= $1";

const PREVIOUS: &str = "SELECT id FROM clients WHERE lower(id) < $1";

impl Records {
    /// Returns a page of the clients in scope that match a search.
    pub(crate) async fn client_page(
        &self,
        order: ClientOrder,
        after: Option<&ClientListItem>,
        search: ClientSearch<'_>,
        scope: &Scope,
        limit: u32,
    ) -> Result<ClientPage, RecordsError> {
        let mut query = Statement::new("SELECT id, last_seen_at FROM clients WHERE 1 = 1");
        match (order, after) {
            (_, None) => {}
            (ClientOrder::Id, Some(after)) => {
                query.push(" AND id > ").push_bind(after.id.as_str());
            }
            (ClientOrder::Seen, Some(after)) => {
                let seen = after.last_seen_at.timestamp_millis();
                query.push(" AND last_seen_at <= ").push_bind(seen);
                query.push(" AND (last_seen_at < ").push_bind(seen);
                query.push(" OR id > ").push_bind(after.id.as_str()).push(")");
            }
        }
        narrow(&mut query, search);
        push_in_scope(&mut query, "id", scope);
        query.push(match order {
            ClientOrder::Id => " ORDER BY id LIMIT ",
            ClientOrder::Seen => " ORDER BY last_seen_at DESC, id LIMIT ",
        });
        query.push_bind(limit);
        let rows = self.readers.list(query).await?;
        let is_last = rows.len() < limit as usize;
        Ok(ClientPage {
            entries: rows.iter().filter_map(|row| self.readable(read_item(row))).collect(),
            is_last,
        })
    }

    /// Counts the clients in scope that match a search.
    pub(crate) async fn count_clients(
        &self,
        search: ClientSearch<'_>,
        scope: &Scope,
    ) -> Result<Total, RecordsError> {
        let mut query =
            Statement::new("SELECT COUNT(*) AS n FROM (SELECT 1 FROM clients WHERE 1 = 1");
        narrow(&mut query, search);
        push_in_scope(&mut query, "id", scope);
        self.count(query).await
    }

    /// Returns the number of clients in scope that are on record.
    pub(crate) async fn n_clients_in(&self, scope: &Scope) -> Result<u64, RecordsError> {
        let mut query = Statement::new("SELECT COUNT(*) AS n FROM clients WHERE 1 = 1");
        push_in_scope(&mut query, "id", scope);
        let rows = self.readers.list(query).await?;
        let counted = rows.first().and_then(|row| row.integer("n")).unwrap_or_default();
        Ok(counted.cast_unsigned())
    }

    /// Returns ids in scope that a mistyped id may mean: the nearest ids in order, and ids that differ by
    /// one letter. Their number is bounded.
    pub(crate) async fn clients_like(
        &self,
        typed: &ClientId,
        scope: &Scope,
    ) -> Result<Vec<ClientId>, RecordsError> {
        let folded = typed.folded();
        let mut variants = Statement::new("SELECT id FROM clients WHERE lower(id) IN (");
        variants.push_list(one_letter_off(&folded).take(MAX_VARIANTS)).push(")");
        push_in_scope(&mut variants, "id", scope);
        let beside = |sql, order: &str| {
            let mut query = Statement::new(sql).bind(folded.as_str());
            push_in_scope(&mut query, "id", scope);
            query.push(order).push(" LIMIT ").push_bind(NEIGHBOURS);
            query
        };
        let next = beside(NEXT, " ORDER BY lower(id)");
        let previous = beside(PREVIOUS, " ORDER BY lower(id) DESC");
        let rows = self.readers.each(vec![next, previous, variants]).await?;
        Ok(rows.iter().filter_map(|row| self.readable(read_id(row))).collect())
    }
}

/// Appends the conditions of a search.
fn narrow(query: &mut Statement, search: ClientSearch<'_>) {
    let ClientSearch { wanted, pending } = search;
    if pending {
        query.push(" AND id IN (SELECT client FROM client_keys WHERE pending = 1)");
    }
    if wanted.is_empty() {
        return;
    }
    let escaped = wanted.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let pattern = format!("%{}%", escaped.to_ascii_lowercase());
    query.push(" AND (lower(id) LIKE ").push_bind(pattern.clone());
    query.push(" ESCAPE '\\' OR lower(agent_hostname) LIKE ").push_bind(pattern);
    query.push(" ESCAPE '\\')");
}

fn read_item(row: &Row) -> Result<ClientListItem, RecordsError> {
    let last_seen_at = RowFields::new("client", row).time("last_seen_at")?;
    Ok(ClientListItem { id: read_id(row)?, last_seen_at })
}

/// Returns every text that differs from `text` by one letter: two letters swapped, a letter removed,
/// replaced or added.
fn one_letter_off(text: &str) -> impl Iterator<Item = String> + '_ {
    let splits = move || (0..=text.len()).map(move |at| text.split_at(at));
    let swapped = splits().filter_map(|(head, tail)| {
        let mut letters = tail.chars();
        let first = letters.next()?;
        let second = letters.next()?;
        Some(format!("{head}{second}{first}{}", letters.as_str()))
    });
    let removed = splits().filter_map(|(head, tail)| Some(format!("{head}{}", tail.get(1..)?)));
    let replaced = splits()
        .filter_map(|(head, tail)| Some((head, tail.get(1..)?)))
        .flat_map(|(head, rest)| LETTERS.chars().map(move |c| format!("{head}{c}{rest}")));
    let added =
        splits().flat_map(|(head, tail)| LETTERS.chars().map(move |c| format!("{head}{c}{tail}")));
    swapped.chain(removed).chain(replaced).chain(added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_typing_error_of_one_letter_is_tried() {
        let tried: Vec<String> = one_letter_off("client4").collect();
        for typed in ["cleint4", "client", "clien4", "climnt4", "client14", "xclient4", "client4x"]
        {
            assert!(tried.iter().any(|variant| variant == typed), "{typed}");
        }
        let longest = "a".repeat(64);
        assert_eq!(one_letter_off(&longest).count(), 63 + 64 + 39 * (64 + 65));
    }
}
