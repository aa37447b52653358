//! Transfers and clients as JSON. A field may be added. No field is removed or changes its meaning.

use std::borrow::Cow;

use axum::http::HeaderValue;
use filepull_core::digest::Digest;
use filepull_core::file_digest::Blake3;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::Code;
use filepull_core::source::Source;
use filepull_core::transfer::Download;
use serde::Serialize;

use super::problem::ProblemJson;
use super::text;
use crate::client::{AgentInfo, Disconnect, Labels};
use crate::http::request::params::rfc3339;
use crate::records::{DamagedTransfer, DownloadState};
use crate::registry::ClientView;
use crate::transfers::{TransferListItem, TransferState, View, WaitingFor};

/// The JSON object of a transfer.
#[derive(Debug, Serialize)]
pub(crate) struct TransferJson<'a> {
    id: TransferId,
    client: &'a ClientId,
    state: &'static str,
    waiting_for: Option<&'static str>,
    path: Option<&'a SharedPath>,
    /// `changes`, `if-changed` or `all`.
    mode: &'static str,
    file: Option<FileJson<'a>>,
    bytes_done: u64,
    /// Bytes of content on the wire in all attempts, as far as they are on record.
    bytes_sent: u64,
    /// `unused`, `copied` or `failed`.
    base: &'static str,
    bytes_per_second: Option<u64>,
    eta_seconds: Option<u64>,
    attempt: u32,
    joined: bool,
    requested_by: &'a str,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    expires_at: Option<String>,
    download: Option<DownloadJson>,
    /// The earlier download that the file of a transfer in state `unchanged` equals.
    unchanged_since: Option<String>,
    error: Option<ProblemJson<'a>>,
}

impl<'a> TransferJson<'a> {
    /// `host`: the host that the caller used, for the commands of a problem.
    pub(crate) fn new(view: &'a View, data_dir: &str, host: &str) -> Self {
        let transfer = &view.transfer;
        let state = view.state();
        let is_active = !transfer.is_final();
        Self {
            id: transfer.id,
            client: &transfer.client,
            state: state.as_str(),
            waiting_for: waiting_for(state),
            path: transfer.path.as_ref(),
            mode: transfer.mode.as_str(),
            file: view.source.as_ref().map(FileJson::from),
            bytes_done: view.bytes_done,
            bytes_sent: view.bytes_sent,
            base: transfer.base_use.as_str(),
            bytes_per_second: view.bytes_per_second.filter(|_| is_active),
            eta_seconds: view.eta().filter(|_| is_active).map(|eta| eta.as_secs()),
            attempt: transfer.attempt,
            joined: false,
            requested_by: &transfer.requested_by,
            created_at: rfc3339(transfer.created_at),
            started_at: transfer.started_at.map(rfc3339),
            finished_at: transfer.finished_at.map(rfc3339),
            expires_at: view.expires_at.filter(|_| is_active).map(rfc3339),
            download: transfer.download().map(|d| DownloadJson::new(view, d, data_dir, host)),
            unchanged_since: transfer.phase.unchanged().map(|found| found.since.to_string()),
            error: transfer.problem().map(|problem| ProblemJson::new(problem, host)),
        }
    }

    /// Sets whether the pull joined a transfer that was unfinished already.
    pub(crate) fn joined(self, joined: bool) -> Self {
        Self { joined, ..self }
    }
}

/// The JSON object of an item in a list of transfers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum TransferItemJson<'a> {
    Transfer(Box<TransferJson<'a>>),
    Damaged(DamagedJson<'a>),
}

impl<'a> TransferItemJson<'a> {
    pub(crate) fn new(item: &'a TransferListItem, data_dir: &str, host: &str) -> Self {
        match item {
            TransferListItem::View(view) => {
                Self::Transfer(Box::new(TransferJson::new(view, data_dir, host)))
            }
            TransferListItem::Damaged(damaged) => Self::Damaged(damaged.into()),
        }
    }
}

/// The JSON object of a transfer whose record cannot be read.
#[derive(Debug, Serialize)]
pub(crate) struct DamagedJson<'a> {
    /// The readable part of the id.
    id: &'a str,
    client: Option<&'a ClientId>,
    state: &'static str,
    created_at: Option<String>,
    reason: &'a str,
}

impl<'a> From<&'a DamagedTransfer> for DamagedJson<'a> {
    fn from(damaged: &'a DamagedTransfer) -> Self {
        let DamagedTransfer { id, client, created_at, reason, .. } = damaged;
        let created_at = created_at.map(rfc3339);
        Self { id, client: client.as_ref(), state: DAMAGED, created_at, reason }
    }
}

/// The `state` of a transfer whose record cannot be read.
pub(crate) const DAMAGED: &str = "damaged";

fn waiting_for(state: TransferState) -> Option<&'static str> {
    match state {
        TransferState::Waiting(WaitingFor::Client) => Some("client"),
        TransferState::Waiting(WaitingFor::OtherFile | WaitingFor::Permit) => Some("turn"),
        TransferState::Waiting(WaitingFor::Disk) => Some("disk"),
        TransferState::Running
        | TransferState::Done
        | TransferState::Unchanged
        | TransferState::Failed
        | TransferState::Cancelled => None,
    }
}

/// The JSON object of a file on a client.
#[derive(Debug, Serialize)]
pub(crate) struct FileJson<'a> {
    name: &'a str,
    size: u64,
    modified_at: Option<String>,
}

impl<'a> From<&'a Source> for FileJson<'a> {
    fn from(source: &'a Source) -> Self {
        let modified_at = source.modified_at().map(rfc3339);
        Self { name: &source.name, size: source.size, modified_at }
    }
}

#[derive(Debug, Serialize)]
struct DownloadJson {
    name: String,
    path: String,
    url: String,
    size: u64,
    sha256: Digest,
    blake3: Blake3,
    /// `stored`, `damaged` or `deleted`, as last found on the disk.
    state: &'static str,
    /// What to do next if the file is not stored any more.
    hint: Option<String>,
}

impl DownloadJson {
    fn new(view: &View, download: &Download, data_dir: &str, host: &str) -> Self {
        let state = view.download_state;
        let is_lost = state != DownloadState::Stored;
        Self {
            name: download.name.to_string(),
            path: text::saved_path(view, download, data_dir),
            url: format!("/api/v1/transfers/{}/file", view.transfer.id),
            size: download.size,
            sha256: download.digests.sha256,
            blake3: download.digests.blake3,
            state: state.as_str(),
            hint: is_lost.then(|| format!("pull it again: {}", text::pull_again(view, host))),
        }
    }
}

/// Returns the URL of a transfer, for the header `Location`.
pub(crate) fn transfer_url(id: TransferId) -> HeaderValue {
    let url = format!("/api/v1/transfers/{id}");
    HeaderValue::try_from(url).expect("an id is hexadecimal digits and dashes")
}

/// A client with its current and its newest transfer.
#[derive(Debug)]
pub(crate) struct ClientDetails {
    pub(crate) client: ClientView,
    /// The running transfer, or the one that has waited longest.
    pub(crate) current: Option<View>,
    /// The newest transfer, which may be the current one.
    pub(crate) last: Option<TransferListItem>,
}

/// The labels of a client that was never enrolled.
static NO_LABELS: Labels = Labels::new();

/// The JSON object of a client.
#[derive(Debug, Serialize)]
pub(crate) struct ClientJson<'a> {
    id: &'a ClientId,
    online: bool,
    /// None for a client that was enrolled and has never connected.
    connected_at: Option<String>,
    last_seen_at: String,
    last_disconnect: Option<&'a Disconnect>,
    agent: &'a AgentInfo,
    remote_addr: String,
    /// None for a client that was never enrolled.
    fingerprint: Option<Fingerprint>,
    pending: bool,
    enrolled_at: Option<String>,
    labels: &'a Labels,
    round_trip_ms: Option<u128>,
    default_file: Option<FileJson<'a>>,
    default_file_error: Option<Code>,
    shares: &'a [String],
    current_transfer: Option<TransferId>,
    last_transfer: Option<LastTransferJson<'a>>,
}

#[derive(Debug, Serialize)]
struct LastTransferJson<'a> {
    id: Cow<'a, str>,
    state: &'static str,
    finished_at: Option<String>,
}

impl<'a> ClientJson<'a> {
    pub(crate) fn new(details: &'a ClientDetails) -> Self {
        let ClientDetails { client, current, .. } = details;
        let record = &client.record;
        let key = record.key.as_ref();
        Self {
            id: &record.id,
            online: client.online,
            connected_at: record.connected_at.map(rfc3339),
            last_seen_at: rfc3339(client.last_seen_at),
            last_disconnect: record.last_disconnect.as_ref(),
            agent: &record.agent,
            remote_addr: record.remote_addr.ip().to_canonical().to_string(),
            fingerprint: key.map(|key| key.fingerprint),
            pending: record.is_pending(),
            enrolled_at: key.map(|key| rfc3339(key.enrolled_at)),
            labels: key.map_or(&NO_LABELS, |key| &key.labels),
            round_trip_ms: client.round_trip.map(|time| time.as_millis()),
            default_file: record.default_file.as_ref().ok().map(FileJson::from),
            default_file_error: record.default_file.as_ref().err().copied(),
            shares: &record.shares,
            current_transfer: current.as_ref().map(|view| view.transfer.id),
            last_transfer: details.last.as_ref().map(LastTransferJson::from),
        }
    }
}

impl<'a> From<&'a TransferListItem> for LastTransferJson<'a> {
    fn from(last: &'a TransferListItem) -> Self {
        match last {
            TransferListItem::View(view) => {
                let finished_at = view.transfer.finished_at.map(rfc3339);
                let id = view.transfer.id.to_string().into();
                Self { id, state: view.state().as_str(), finished_at }
            }
            TransferListItem::Damaged(damaged) => {
                Self { id: damaged.id.as_str().into(), state: DAMAGED, finished_at: None }
            }
        }
    }
}
