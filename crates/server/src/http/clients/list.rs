//! Which clients a list shows, and in which order.

use std::cmp::Reverse;

use filepull_core::problem::Problem;

use super::super::paging::{self, Page};
use super::super::params::Params;
use crate::registry::ClientView;

const PARAMS: &[&str] = &["state", "q", "sort", "limit", "cursor"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Id,
    /// Those heard last come first.
    Seen,
}

/// The page that the parameters ask for, of all clients sorted by id.
pub(super) fn page(mut all: Vec<ClientView>, params: &Params) -> Result<Page<ClientView>, Problem> {
    params.only(PARAMS)?;
    let online = params.choice("state", &[("online", true), ("offline", false)])?;
    let sort = params.choice("sort", &[("id", Sort::Id), ("seen", Sort::Seen)])?;
    let limit = paging::limit(params)?;
    let wanted = params.get("q").unwrap_or_default().to_lowercase();
    all.retain(|client| online.is_none_or(|online| client.online == online));
    all.retain(|client| contains(client, &wanted));
    match sort.unwrap_or(Sort::Id) {
        Sort::Id => {
            let cursor = paging::cursor(params, read_id)?;
            let is_after = |client: &ClientView| {
                cursor.as_ref().is_none_or(|cursor| *cursor < client.record.id.as_str())
            };
            let write = |client: &ClientView| format!("id~{}", client.record.id);
            Ok(paging::cut(all, limit, is_after, write))
        }
        Sort::Seen => {
            let key = |client: &ClientView| (Reverse(seen(client)), client.record.id.to_string());
            all.sort_by_key(key);
            let cursor = paging::cursor(params, read_seen)?;
            let is_after =
                |client: &ClientView| cursor.as_ref().is_none_or(|cursor| *cursor < key(client));
            let write = |client: &ClientView| format!("seen~{}~{}", seen(client), client.record.id);
            Ok(paging::cut(all, limit, is_after, write))
        }
    }
}

fn seen(client: &ClientView) -> i64 {
    client.last_seen_at.timestamp_millis()
}

/// Reads a cursor of the list by id.
fn read_id(cursor: &str) -> Option<&str> {
    cursor.strip_prefix("id~")
}

/// Reads a cursor of the list by time.
fn read_seen(cursor: &str) -> Option<(Reverse<i64>, String)> {
    let (seen, id) = cursor.strip_prefix("seen~")?.split_once('~')?;
    Some((Reverse(seen.parse().ok()?), id.to_owned()))
}

/// Is `wanted` (in lower case) part of the id or of the machine's name?
fn contains(client: &ClientView, wanted: &str) -> bool {
    let record = &client.record;
    let places = [record.id.as_str(), record.agent.hostname.as_str()];
    places.into_iter().any(|place| place.to_lowercase().contains(wanted))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use filepull_core::id::ClientId;
    use filepull_core::problem::Code;

    use super::*;
    use crate::client::{Agent, ClientRecord};

    fn client(id: &str, online: bool, seen: i64) -> ClientView {
        let last_seen_at = DateTime::from_timestamp_millis(seen).unwrap();
        let record = ClientRecord {
            id: ClientId::parse(id).unwrap(),
            epoch: 1,
            agent: Agent { hostname: format!("POS-{id}"), ..Agent::default() },
            shares: Vec::new(),
            default_file: Err(Code::FileMissing),
            remote_addr: ([127, 0, 0, 1], 1).into(),
            connected_at: last_seen_at,
            last_seen_at,
            last_disconnect: None,
        };
        ClientView { record, online, last_seen_at, round_trip: None }
    }

    fn ids(query: &str) -> (Vec<String>, Option<String>) {
        let all = vec![client("a1", true, 5), client("a2", false, 9), client("b1", true, 9)];
        let page = page(all, &Params::from_query(Some(query)).unwrap()).unwrap();
        (page.items.iter().map(|client| client.record.id.to_string()).collect(), page.next_cursor)
    }

    #[test]
    fn clients_are_filtered_sorted_and_cut() {
        let check = |query, expected: &[&str]| assert_eq!(ids(query).0, expected, "{query}");
        check("", &["a1", "a2", "b1"]);
        check("state=online", &["a1", "b1"]);
        check("state=offline", &["a2"]);
        check("q=pos-a", &["a1", "a2"]);
        check("sort=seen", &["a2", "b1", "a1"]);
        check("limit=2", &["a1", "a2"]);
        check("cursor=id~a2", &["b1"]);
    }

    #[test]
    fn a_cursor_of_another_list_or_of_none_is_refused() {
        for query in
            ["cursor=zzz", "cursor=..", "cursor=", "sort=seen&cursor=id~a2", "cursor=seen~5~a1"]
        {
            assert!(
                page(Vec::new(), &Params::from_query(Some(query)).unwrap()).is_err(),
                "{query}"
            );
        }
    }

    #[test]
    fn each_order_has_a_cursor_that_leads_on() {
        for sort in ["id", "seen"] {
            let (mut seen, mut query) = (Vec::new(), format!("sort={sort}&limit=1"));
            while let (ids, Some(cursor)) = ids(&query) {
                seen.extend(ids);
                query = format!("sort={sort}&limit=1&cursor={cursor}");
            }
            seen.extend(ids(&query).0);
            assert_eq!(seen, ids(&format!("sort={sort}")).0);
        }
    }
}
