//! A transfer as JSON. Fields may be added here, never removed or given another meaning.

use filepull_core::digest::Digest;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::source::Source;
use filepull_core::transfer::Download;
use serde::Serialize;

use super::super::reply::{ProblemJson, time};
use super::super::say;
use crate::records::DamagedTransfer;
use crate::transfers::{TransferListItem, TransferState, View, WaitingFor};

/// A transfer, as the API shows it.
#[derive(Debug, Serialize)]
pub(in super::super) struct TransferJson<'a> {
    id: TransferId,
    client: &'a ClientId,
    state: &'static str,
    waiting_for: Option<&'static str>,
    path: Option<&'a SharedPath>,
    file: Option<FileJson<'a>>,
    bytes_done: u64,
    bytes_per_second: Option<u64>,
    eta_seconds: Option<u64>,
    attempt: u32,
    joined: bool,
    requested_by: &'a str,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    expires_at: Option<String>,
    download: Option<DownloadJson<'a>>,
    error: Option<ProblemJson<'a>>,
}

impl<'a> TransferJson<'a> {
    /// The transfer as `view` shows it, to a caller who reaches this server as `host`.
    pub(in super::super) fn new(view: &'a View, data_dir: &str, host: &str) -> Self {
        let (transfer, state) = (&view.transfer, view.state());
        let under_way = !transfer.is_final();
        Self {
            id: transfer.id,
            client: &transfer.client,
            state: state.as_str(),
            waiting_for: waiting_for(state),
            path: transfer.path.as_ref(),
            file: view.source.as_ref().map(FileJson::from),
            bytes_done: view.bytes_done,
            bytes_per_second: view.bytes_per_second.filter(|_| under_way),
            eta_seconds: view.eta().filter(|_| under_way).map(|eta| eta.as_secs()),
            attempt: transfer.attempt,
            joined: false,
            requested_by: &transfer.requested_by,
            created_at: time(transfer.created_at),
            started_at: transfer.started_at.map(time),
            finished_at: transfer.finished_at.map(time),
            expires_at: view.expires_at.filter(|_| under_way).map(time),
            download: transfer.download().map(|d| DownloadJson::new(view, d, data_dir)),
            error: transfer.problem().map(|problem| ProblemJson::addressed(problem, host)),
        }
    }

    /// Says whether the pull that is answered found this transfer under way.
    pub(in super::super) fn joined(self, joined: bool) -> Self {
        Self { joined, ..self }
    }
}

/// An item of a list of transfers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum ListedJson<'a> {
    Transfer(Box<TransferJson<'a>>),
    Damaged(DamagedJson<'a>),
}

impl<'a> ListedJson<'a> {
    pub(super) fn new(item: &'a TransferListItem, data_dir: &str, host: &str) -> Self {
        match item {
            TransferListItem::View(view) => {
                Self::Transfer(Box::new(TransferJson::new(view, data_dir, host)))
            }
            TransferListItem::Damaged(damaged) => Self::Damaged(damaged.into()),
        }
    }
}

/// A transfer whose record cannot be read.
#[derive(Debug, Serialize)]
pub(super) struct DamagedJson<'a> {
    /// As far as it is readable.
    id: &'a str,
    client: Option<&'a ClientId>,
    state: &'static str,
    created_at: Option<String>,
    reason: &'a str,
}

impl<'a> From<&'a DamagedTransfer> for DamagedJson<'a> {
    fn from(damaged: &'a DamagedTransfer) -> Self {
        let DamagedTransfer { id, client, created_at, reason, .. } = damaged;
        let (client, created_at) = (client.as_ref(), created_at.map(time));
        Self { id, client, state: DAMAGED, created_at, reason }
    }
}

/// The state of a transfer whose record cannot be read.
pub(in super::super) const DAMAGED: &str = "damaged";

fn waiting_for(state: TransferState) -> Option<&'static str> {
    match state {
        TransferState::Waiting(WaitingFor::Client) => Some("client"),
        TransferState::Waiting(WaitingFor::OtherFile | WaitingFor::Turn) => Some("turn"),
        TransferState::Waiting(WaitingFor::Disk) => Some("disk"),
        TransferState::Running
        | TransferState::Done
        | TransferState::Failed
        | TransferState::Cancelled => None,
    }
}

/// A file on its client.
#[derive(Debug, Serialize)]
pub(in super::super) struct FileJson<'a> {
    name: &'a str,
    size: u64,
    modified_at: Option<String>,
}

impl<'a> From<&'a Source> for FileJson<'a> {
    fn from(source: &'a Source) -> Self {
        let modified_at = source.modified_at().map(time);
        Self { name: &source.name, size: source.size, modified_at }
    }
}

/// A finished download.
#[derive(Debug, Serialize)]
struct DownloadJson<'a> {
    name: String,
    path: String,
    url: String,
    size: u64,
    sha256: &'a Digest,
}

impl<'a> DownloadJson<'a> {
    fn new(view: &View, download: &'a Download, data_dir: &str) -> Self {
        Self {
            name: download.name.to_string(),
            path: say::saved_path(view, download, data_dir),
            url: format!("/api/v1/transfers/{}/file", view.transfer.id),
            size: download.size,
            sha256: &download.digest,
        }
    }
}
