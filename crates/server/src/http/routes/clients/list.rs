//! Which clients a list shows, and in which order.

use chrono::DateTime;
use filepull_core::id::ClientId;
use filepull_core::problem::Problem;

use crate::http::App;
use crate::http::request::params::Params;
use crate::http::response::paging::{self, ListPage};
use crate::http::response::problem::records_failed;
use crate::known_clients::ClientFilter;
use crate::records::{ClientListItem, ClientOrder};
use crate::registry::ClientView;

const PARAMS: &[&str] = &["state", "q", "sort", "limit", "cursor"];

/// The page that the parameters ask for.
pub(crate) async fn fetch(app: &App, params: &Params) -> Result<ListPage<ClientView>, Problem> {
    let filter = filter(params)?;
    let list = app.clients.list(&filter).await.map_err(|error| records_failed(&error))?;
    let next_cursor = list.next.map(|entry| write(filter.order, &entry));
    Ok(ListPage { items: list.clients, next_cursor, total: list.total })
}

fn filter(params: &Params) -> Result<ClientFilter, Problem> {
    params.only(PARAMS)?;
    let order = params.choice("sort", &[("id", ClientOrder::Id), ("seen", ClientOrder::Seen)])?;
    let order = order.unwrap_or(ClientOrder::Id);
    Ok(ClientFilter {
        online: params.choice("state", &[("online", true), ("offline", false)])?,
        wanted: params.get("q").unwrap_or_default().to_ascii_lowercase(),
        order,
        after: paging::cursor(params, |cursor| read(order, cursor))?,
        limit: paging::limit(params)? as usize,
    })
}

/// The cursor of the page after this entry.
fn write(order: ClientOrder, entry: &ClientListItem) -> String {
    match order {
        ClientOrder::Id => format!("id~{}", entry.id),
        ClientOrder::Seen => {
            format!("seen~{}~{}", entry.last_seen_at.timestamp_millis(), entry.id)
        }
    }
}

/// Reads a cursor of a list in this order.
fn read(order: ClientOrder, cursor: &str) -> Option<ClientListItem> {
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
    fn a_cursor_of_another_list_or_of_none_is_refused() {
        for query in
            ["cursor=zzz", "cursor=..", "cursor=", "sort=seen&cursor=id~a2", "cursor=seen~5~a1"]
        {
            assert!(parsed(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_cursor_leads_to_where_the_page_ended() {
        for query in ["cursor=id~a2", "sort=seen&cursor=seen~1770000000001~a2"] {
            let filter = parsed(query).unwrap();
            let after = filter.after.unwrap();
            assert!(query.ends_with(&write(filter.order, &after)), "{after:?}");
        }
    }
}
