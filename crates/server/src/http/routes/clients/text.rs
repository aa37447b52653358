//! The text pages of one client and of a list of clients.

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::problem::Code;

use crate::client::DefaultFile;
use crate::http::response::paging::ListPage;
use crate::http::response::resource::{ClientDetails, DAMAGED};
use crate::http::response::text::{self, table};
use crate::known_clients::ClientCounts;
use crate::registry::{self, ClientView};
use crate::transfers::{TransferListItem, TransferState, View};

/// The text of `/clients`: a table and the totals.
pub(crate) fn list(
    page: &ListPage<ClientDetails>,
    counts: ClientCounts,
    now: DateTime<Utc>,
) -> String {
    let header = ["CLIENT", "STATE", "SEEN", "AGENT", "OS", "FILE", "SIZE", "LAST TRANSFER"];
    let rows = page.items.iter().map(|details| row(details, now));
    let lines: Vec<_> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let clients = text::count(counts.known, "client", "clients");
    let n_online = counts.online;
    let n_offline = counts.offline();
    let n_shown = page.items.len();
    let shown = if n_shown == counts.known { String::new() } else { format!("  {n_shown} shown.") };
    let pending: String = page.items.iter().filter_map(|details| pending(details, now)).collect();
    let table = table(&lines);
    format!("{table}{clients}: {n_online} online, {n_offline} offline.{shown}\n{pending}")
}

/// Returns what an administrator needs to approve a client. None if the client is not pending.
fn pending(details: &ClientDetails, now: DateTime<Utc>) -> Option<String> {
    let record = &details.client.record;
    let key = record.key.as_ref().filter(|key| key.pending)?;
    let id = &record.id;
    let fingerprint = &key.fingerprint;
    let from = record.remote_addr.ip().to_canonical();
    let ago = text::ago(key.enrolled_at, now);
    let hostname = word(&record.agent.hostname);
    Some(format!(
        "{id} waits for approval: enrolled {ago} from {from} ({hostname})\n  {fingerprint}\n  \
         filepull approve {id}\n"
    ))
}

fn row(details: &ClientDetails, now: DateTime<Utc>) -> [String; 8] {
    let ClientDetails { client, current, last } = details;
    let agent = &client.record.agent;
    let (file, size) = file(&client.record.default_file, current.as_ref(), text::short);
    [
        client.record.id.to_string(),
        state(client, current.as_ref()).to_owned(),
        seen(client, now),
        word(&agent.version),
        word(&agent.os),
        file,
        size,
        last_transfer(last.as_ref(), now),
    ]
}

fn state(client: &ClientView, current: Option<&View>) -> &'static str {
    let sending = current.is_some_and(|view| view.state() == TransferState::Running);
    match (client.online, sending) {
        _ if client.record.is_pending() => "pending",
        (true, true) => "sending",
        (true, false) => "online",
        (false, _) => "offline",
    }
}

fn seen(client: &ClientView, now: DateTime<Utc>) -> String {
    if client.online { "now".to_owned() } else { text::ago(client.last_seen_at, now) }
}

/// Returns the file that is being sent and its progress, or else the default file and its size.
fn file(
    default: &DefaultFile,
    current: Option<&View>,
    name: fn(&str) -> String,
) -> (String, String) {
    let sending = current.and_then(|view| view.source.as_ref().zip(view.percent()));
    match (sending, default) {
        (Some((source, percent)), _) => (name(&source.name), format!("{percent} %")),
        (None, Ok(source)) => (name(&source.name), human::size(source.size)),
        (None, Err(Code::FileMissing)) => ("missing".to_owned(), String::new()),
        (None, Err(code)) => (code.to_string(), String::new()),
    }
}

fn last_transfer(last: Option<&TransferListItem>, now: DateTime<Utc>) -> String {
    let view = match last {
        None => return "never".to_owned(),
        Some(TransferListItem::Damaged(_)) => return DAMAGED.to_owned(),
        Some(TransferListItem::View(view)) => view,
    };
    let state = view.state().as_str();
    let transfer = &view.transfer;
    let problem = transfer.problem().map(|problem| format!("{}, ", problem.code));
    match transfer.finished_at {
        None => state.to_owned(),
        Some(at) => format!("{state}  {}{}", problem.unwrap_or_default(), text::ago(at, now)),
    }
}

/// Formats text from an agent as one word. Empty text becomes `-`.
fn word(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { human::printable(text, 24).replace(' ', "_") }
}

/// The text of `/clients/ID`: the state, commands and what the agent reported.
pub(crate) fn client(details: &ClientDetails, now: DateTime<Utc>, host: &str) -> String {
    let ClientDetails { client, current, last } = details;
    let record = &client.record;
    let id = &record.id;
    let head = if client.online {
        let connected_at = record.connected_at.unwrap_or(now);
        let since = (now - connected_at).to_std().unwrap_or_default();
        let state = state(client, current.as_ref());
        format!("{id} is {state}, connected for {}.", human::span(since))
    } else if record.is_pending() {
        format!("{id} waits for approval: compare its fingerprint, then run filepull approve {id}")
    } else {
        format!("{id} is offline. {}", registry::last_seen(client, now))
    };
    let (file, size) = file(&record.default_file, current.as_ref(), text::name);
    let agent = &record.agent;
    let shares: Vec<String> = record.shares.iter().map(|share| text::name(share)).collect();
    let machine = [&agent.hostname, &agent.os, &agent.arch].map(|text| word(text)).join("  ");
    // Without `queue` a pull from an offline client is rejected.
    let queue = if client.online { "" } else { "&queue=24h" };
    let transfer_line = current.as_ref().map(|view| {
        let state = view.state().as_str();
        let transfer = view.transfer.id;
        format!("{state}  {host}/transfers/{transfer}")
    });
    let mut rows = vec![
        ["  pull".to_owned(), format!("curl \"{host}/trigger?id={id}{queue}\"")],
        ["  file".to_owned(), format!("curl -OJ {host}/clients/{id}/file")],
        [String::new(), String::new()],
        ["agent".to_owned(), word(&agent.version)],
        ["machine".to_owned(), machine],
        ["address".to_owned(), record.remote_addr.ip().to_canonical().to_string()],
        ["file".to_owned(), format!("{file}  {size}")],
        ["shares".to_owned(), shares.join("  ")],
        ["current".to_owned(), transfer_line.unwrap_or_else(|| "none".to_owned())],
        ["last".to_owned(), last_transfer(last.as_ref(), now)],
    ];
    if let Some(key) = &record.key {
        rows.insert(6, ["key".to_owned(), key.fingerprint.to_string()]);
        let labels: Vec<_> =
            key.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !labels.is_empty() {
            rows.insert(7, ["labels".to_owned(), text::name(&labels.join("  "))]);
        }
    }
    if current.is_some() {
        let stop = format!("curl -X POST {host}/clients/{id}/cancel");
        rows.insert(2, ["  stop".to_owned(), stop]);
    }
    format!("{head}\n{}", table(&rows))
}
