//! A client as JSON. Fields may be added here, never removed or given another meaning.

use std::borrow::Cow;

use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Code;
use serde::Serialize;

use super::super::reply::time;
use super::super::transfers::{DAMAGED, FileJson};
use super::ClientDetails;
use crate::client::{AgentInfo, Disconnect};
use crate::transfers::TransferListItem;

/// A client, as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct ClientJson<'a> {
    id: &'a ClientId,
    online: bool,
    connected_at: String,
    last_seen_at: String,
    last_disconnect: Option<&'a Disconnect>,
    agent: &'a AgentInfo,
    remote_addr: String,
    round_trip_ms: Option<u128>,
    default_file: Option<FileJson<'a>>,
    default_file_error: Option<Code>,
    shares: &'a [String],
    current_transfer: Option<TransferId>,
    last_transfer: Option<LastJson<'a>>,
}

#[derive(Debug, Serialize)]
struct LastJson<'a> {
    id: Cow<'a, str>,
    state: &'static str,
    finished_at: Option<String>,
}

impl<'a> ClientJson<'a> {
    pub(super) fn new(known: &'a ClientDetails) -> Self {
        let ClientDetails { client, current, .. } = known;
        let record = &client.record;
        Self {
            id: &record.id,
            online: client.online,
            connected_at: time(record.connected_at),
            last_seen_at: time(client.last_seen_at),
            last_disconnect: record.last_disconnect.as_ref(),
            agent: &record.agent,
            remote_addr: record.remote_addr.ip().to_canonical().to_string(),
            round_trip_ms: client.round_trip.map(|time| time.as_millis()),
            default_file: record.default_file.as_ref().ok().map(FileJson::from),
            default_file_error: record.default_file.as_ref().err().copied(),
            shares: &record.shares,
            current_transfer: current.as_ref().map(|view| view.transfer.id),
            last_transfer: known.last.as_ref().map(LastJson::from),
        }
    }
}

impl<'a> From<&'a TransferListItem> for LastJson<'a> {
    fn from(last: &'a TransferListItem) -> Self {
        match last {
            TransferListItem::View(view) => {
                let finished_at = view.transfer.finished_at.map(time);
                let id = view.transfer.id.to_string().into();
                Self { id, state: view.state().as_str(), finished_at }
            }
            TransferListItem::Damaged(damaged) => {
                Self { id: damaged.id.as_str().into(), state: DAMAGED, finished_at: None }
            }
        }
    }
}
