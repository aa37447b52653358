//! Parses the parameters of a list of clients, and fetches the page.

use chrono::DateTime;
use filepull_core::id::ClientId;
use filepull_core::problem::Problem;

use crate::http::request::params::Params;
use crate::http::response::paging::{self, ListPage};
use crate::http::response::problem::records_failed;
use crate::known_clients::{ClientFilter, ScopedClients};
use crate::records::{ClientListItem, ClientOrder};
use crate::registry::ClientView;

const PARAMS: &[&str] = &["state", "q", "sort", "limit", "cursor"];

/// Returns the page that the parameters select.
pub(crate) async fn fetch(
    clients: &ScopedClients,
    params: &Params,
) -> Result<ListPage<ClientView>, Problem> {
    let filter = filter(params)?;
    let list = clients.list(&filter).await.map_err(|error| records_failed(&error))?;
    let next_cursor = list.next.map(|entry| format_cursor(filter.order, &entry));
    Ok(ListPage { items: list.clients, next_cursor, total: list.total })
}

fn filter(params: &Params) -> Result<ClientFilter, Problem> {
    params.only(PARAMS)?;
    let orders = [("id", ClientOrder::Id), ("seen", ClientOrder::Seen)];
    let order = params.choice("sort", &orders)?.unwrap_or(ClientOrder::Id);
    // A pending client has no session.
    let states =
        [("online", (true, false)), ("offline", (false, false)), ("pending", (false, true))];
    let state = params.choice("state", &states)?;
    let pending = state.is_some_and(|(_, pending)| pending);
    Ok(ClientFilter {
        online: state.map(|(online, _)| online),
        pending,
        wanted: params.get("q").unwrap_or_default().to_ascii_lowercase(),
        order,
        after: paging::cursor(params, |cursor| parse_cursor(order, cursor))?,
        limit: paging::limit(params)? as usize,
    })
}

/// Returns the cursor of the page that starts after `entry`.
fn format_cursor(order: ClientOrder, entry: &ClientListItem) -> String {
    match order {
        ClientOrder::Id => format!("id~{}", entry.id),
        ClientOrder::Seen => {
            format!("seen~{}~{}", entry.last_seen_at.timestamp_millis(), entry.id)
        }
    }
}

/// Parses a cursor. `None` if it is invalid or belongs to a list in another order.
fn parse_cursor(order: ClientOrder, cursor: &str) -> Option<ClientListItem> {
    let (millis, id) = match order {
        ClientOrder::Id => (0, cursor.strip_prefix("id~")?),
        ClientOrder::Seen => {
            let (millis, id) = cursor.strip_prefix("seen~")?.split_once('~')?;
            (millis.parse().ok()?, id)
        }
    };
    let last_seen_at = DateTime::from_timestamp_millis(millis)?;
    Some(ClientListItem { id: ClientId::parse(id).ok()?, last_seen_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<ClientFilter, Problem> {
        filter(&Params::from_query(Some(query)).unwrap())
    }

    #[test]
    fn an_invalid_cursor_and_a_cursor_of_another_order_are_rejected() {
        for query in
            ["cursor=zzz", "cursor=..", "cursor=", "sort=seen&cursor=id~a2", "cursor=seen~5~a1"]
        {
            assert!(parsed(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_parsed_cursor_formats_to_the_same_text() {
        for query in ["cursor=id~a2", "sort=seen&cursor=seen~1770000000001~a2"] {
            let filter = parsed(query).unwrap();
            let after = filter.after.unwrap();
            assert!(query.ends_with(&format_cursor(filter.order, &after)), "{after:?}");
        }
    }
}
