//! Which clients there are: ids page by page, and those like an id that was typed.
//!
//! Ids only, because an index holds them: a row is read once it is known that it is shown.

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;

use super::fields::RowFields;
use super::list::{COUNT_UP_TO, Total};
use super::readers::Readers;
use super::statement::{Row, Statement};
use super::{Records, RecordsError};

/// The order of a list of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOrder {
    /// By id.
    Id,
    /// Those heard last come first.
    Seen,
}

/// A client in a list, and where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListItem {
    /// The client.
    pub id: ClientId,
    /// When it was last heard, as far as it is on record.
    pub last_seen_at: DateTime<Utc>,
}

/// A page of the clients on record, connected or not.
#[derive(Clone, Debug)]
pub struct ClientPage {
    /// The clients that can be read.
    pub entries: Vec<ClientListItem>,
    /// This is the last page.
    pub is_last: bool,
}

/// Nearest ids on either side of a mistyped one.
const NEIGHBOURS: u32 = 64;

/// One wrong, extra, missing or misplaced letter. For a long id only some variants are tried.
const MAX_VARIANTS: usize = 1024;

/// The characters of an id, ignoring case.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789-_.";

const NEXT: &str = "SELECT id FROM clients WHERE lower(id) >= $1 ORDER BY lower(id) LIMIT $2";

const PREVIOUS: &str =
    "SELECT id FROM clients WHERE lower(id) < $1 ORDER BY lower(id) DESC LIMIT $2";

const LIKE_BY_CASE: &str =
    "SELECT id FROM clients WHERE lower(id) = lower($1) AND id <> $1 LIMIT 1";

impl Records {
    /// A page of the clients on record whose id or machine has `wanted` in its name (in any letter
    /// case; empty is in every name).
    ///
    /// # Errors
    /// The database failed.
    pub async fn client_page(
        &self,
        order: ClientOrder,
        after: Option<&ClientListItem>,
        wanted: &str,
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
        narrow(&mut query, wanted);
        query.push(match order {
            ClientOrder::Id => " ORDER BY id LIMIT ",
            ClientOrder::Seen => " ORDER BY last_seen_at DESC, id LIMIT ",
        });
        query.push_bind(limit);
        let rows = self.readers.list(query).await?;
        let is_last = rows.len() < limit as usize;
        Ok(ClientPage {
            entries: rows.iter().filter_map(|row| self.readable(entry(row))).collect(),
            is_last,
        })
    }

    /// How many clients have `wanted` in their name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn count_clients(&self, wanted: &str) -> Result<Total, RecordsError> {
        let mut query =
            Statement::new("SELECT COUNT(*) AS n FROM (SELECT 1 FROM clients WHERE 1 = 1");
        narrow(&mut query, wanted);
        query.push(" LIMIT ").push_bind(COUNT_UP_TO + 1).push(") AS counted");
        let rows = self.readers.list(query).await?;
        let found = rows.first().and_then(|row| row.integer("n")).unwrap_or_default();
        Ok(Total::of(found.cast_unsigned()))
    }

    /// Returns clients whose ids may be meant by a mistyped one: the nearest in order, and those
    /// that differ by one letter. The number is bounded, however many clients are known.
    ///
    /// # Errors
    /// The database failed.
    pub async fn clients_like(&self, typed: &ClientId) -> Result<Vec<ClientId>, RecordsError> {
        let folded = typed.folded();
        let mut variants = Statement::new("SELECT id FROM clients WHERE lower(id) IN (");
        for (idx, variant) in one_letter_off(&folded).take(MAX_VARIANTS).enumerate() {
            variants.push(if idx == 0 { "" } else { ", " }).push_bind(variant);
        }
        variants.push(")");
        let beside = |sql| Statement::new(sql).bind(folded.as_str()).bind(NEIGHBOURS);
        let rows = self.readers.each(vec![beside(NEXT), beside(PREVIOUS), variants]).await?;
        Ok(rows.iter().filter_map(|row| self.readable(id(row))).collect())
    }
}

/// The known client whose id differs from this one by letter case only.
pub(super) async fn like_by_case(
    readers: &Readers,
    typed: &ClientId,
) -> Result<Option<ClientId>, RecordsError> {
    let row = readers.point(Statement::new(LIKE_BY_CASE).bind(typed.as_str())).await?;
    row.as_ref().map(id).transpose()
}

fn narrow(query: &mut Statement, wanted: &str) {
    if wanted.is_empty() {
        return;
    }
    let escaped = wanted.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let pattern = format!("%{}%", escaped.to_ascii_lowercase());
    query.push(" AND (lower(id) LIKE ").push_bind(pattern.clone());
    query.push(" ESCAPE '\\' OR lower(agent_hostname) LIKE ").push_bind(pattern);
    query.push(" ESCAPE '\\')");
}

fn id(row: &Row) -> Result<ClientId, RecordsError> {
    RowFields::new("client", row).parse("id", |text| ClientId::parse(text).ok())
}

fn entry(row: &Row) -> Result<ClientListItem, RecordsError> {
    Ok(ClientListItem {
        id: id(row)?,
        last_seen_at: RowFields::new("client", row).time("last_seen_at")?,
    })
}

/// Every text that differs from `text` by one letter: two swapped, one too many, another one, or one
/// missing.
fn one_letter_off(text: &str) -> impl Iterator<Item = String> + '_ {
    let places = move || (0..=text.len()).map(move |at| text.split_at(at));
    let swapped = places().filter_map(|(head, tail)| {
        let mut letters = tail.chars();
        let (first, second) = (letters.next()?, letters.next()?);
        Some(format!("{head}{second}{first}{}", letters.as_str()))
    });
    let without = places().filter_map(|(head, tail)| Some(format!("{head}{}", tail.get(1..)?)));
    let other = places().filter_map(|(head, tail)| Some((head, tail.get(1..)?)));
    let other =
        other.flat_map(|(head, rest)| LETTERS.chars().map(move |c| format!("{head}{c}{rest}")));
    let more = places();
    let more =
        more.flat_map(|(head, tail)| LETTERS.chars().map(move |c| format!("{head}{c}{tail}")));
    swapped.chain(without).chain(other).chain(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slip_of_one_letter_is_tried() {
        let tried: Vec<String> = one_letter_off("client4").collect();
        for typed in ["cleint4", "client", "clien4", "climnt4", "client14", "xclient4", "client4x"]
        {
            assert!(tried.iter().any(|variant| variant == typed), "{typed}");
        }
        let longest = "a".repeat(64);
        assert_eq!(one_letter_off(&longest).count(), 63 + 64 + 39 * (64 + 65));
    }
}
