//! The text pages of one transfer and of a list of transfers.

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::transfer::Phase;

use crate::http::response::paging::ListPage;
use crate::http::response::problem::to_text;
use crate::http::response::resource::DAMAGED;
use crate::http::response::text::{self, table};
use crate::records::{DamagedTransfer, DownloadState};
use crate::transfers::{Activity, TransferCounts, TransferListItem, TransferState, View};

/// The text of `/transfers/ID`.
pub(crate) fn transfer(view: &View, place: Option<usize>, data_dir: &str, host: &str) -> String {
    let transfer = &view.transfer;
    let path = transfer.path.as_ref().map_or("the default file".to_owned(), ToString::to_string);
    let created = text::second(transfer.created_at);
    let requested_by = text::name(&transfer.requested_by);
    let head = match &transfer.phase {
        Phase::Done(published) if view.download_state != DownloadState::Stored => {
            text::done_and_lost(view, published.download(), data_dir, host)
        }
        Phase::Done(published) => {
            let done = text::done(view, published.download(), data_dir);
            format!("{done}  file    curl -OJ {host}/transfers/{}/file\n", transfer.id)
        }
        Phase::Unchanged(unchanged) => text::unchanged(view, unchanged, data_dir),
        Phase::Failed(failure) => format!("Failed: {}", to_text(&failure.problem, host)),
        Phase::Cancelled(failure) => to_text(&failure.problem, host),
        Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_) => {
            let id = transfer.id;
            let cancel = format!("curl -X POST {host}/transfers/{id}/cancel");
            let wait = format!("curl \"{host}/transfers/{id}?wait\"");
            format!("{}\n  wait    {wait}\n  cancel  {cancel}\n", unfinished(view, place))
        }
    };
    format!(
        "{head}\ntransfer  {}\nasked     {created} by {requested_by}\npath      {path}\nattempt   {}\n",
        transfer.id, transfer.attempt
    )
}

/// The text of the response to `POST /transfers/ID/cancel`.
pub(crate) fn cancelled(view: &View, data_dir: &str, host: &str) -> String {
    let transfer = &view.transfer;
    let id = transfer.id;
    match &transfer.phase {
        Phase::Cancelled(failure) => to_text(&failure.problem, host),
        Phase::Failed(failure) => {
            format!(
                "Nothing to cancel: the transfer has failed.\n{}",
                to_text(&failure.problem, host)
            )
        }
        Phase::Done(published) => {
            format!("Nothing to cancel. {}", text::done(view, published.download(), data_dir))
        }
        Phase::Unchanged(unchanged) => {
            format!("Nothing to cancel. {}", text::unchanged(view, unchanged, data_dir))
        }
        Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_) => format!(
            "The cancel was sent; the transfer has not ended yet.\n  \
               wait    curl \"{host}/transfers/{id}?wait\"\n"
        ),
    }
}

/// Returns `Running: client4 is sending menu.txt (100.0 MiB), 42 %, about 12 s left.`
fn unfinished(view: &View, place: Option<usize>) -> String {
    match view.activity {
        Activity::Waiting(waiting_for) => {
            format!("Waiting: {}.", text::waits(view, waiting_for, place))
        }
        Activity::Recording | Activity::Starting | Activity::Ordered => {
            format!("Asked {}, no answer yet.", view.transfer.client)
        }
        Activity::Running => {
            let progress = text::progress(view).map(|progress| format!(", {progress}"));
            format!("Running: {}{}.", text::sending(view), progress.unwrap_or_default())
        }
    }
}

/// The text of `/transfers`. `counts` is `None` for a filtered list.
pub(crate) fn list(
    page: &ListPage<(Option<usize>, TransferListItem)>,
    now: DateTime<Utc>,
    counts: Option<TransferCounts>,
) -> String {
    let header = ["TRANSFER", "CLIENT", "STATE", "FILE", "ASKED", "OUTCOME"].map(str::to_owned);
    let rows = page.items.iter().map(|(place, item)| match item {
        TransferListItem::View(view) => row(view, *place, now),
        TransferListItem::Damaged(damaged) => damaged_row(damaged, now),
    });
    let lines: Vec<_> = std::iter::once(header).chain(rows).collect();
    let shown = page.items.len();
    let total = page.total;
    let scope = counts.map_or(" that match".to_owned(), |TransferCounts { running, waiting }| {
        format!("; {running} running, {waiting} waiting")
    });
    format!("{}{shown} of {total} transfers{scope}.\n", table(&lines))
}

fn row(view: &View, place: Option<usize>, now: DateTime<Utc>) -> [String; 6] {
    let transfer = &view.transfer;
    let name = view.source.as_ref().map(|source| source.name.as_str());
    let file = name.or_else(|| transfer.path.as_ref().map(|path| path.as_str()));
    [
        transfer.id.to_string(),
        transfer.client.to_string(),
        view.state().as_str().to_owned(),
        file.map_or_else(|| "-".to_owned(), text::short),
        text::ago(transfer.created_at, now),
        outcome(view, place),
    ]
}

fn damaged_row(damaged: &DamagedTransfer, now: DateTime<Utc>) -> [String; 6] {
    let unknown = || "-".to_owned();
    [
        damaged.id.clone(),
        damaged.client.as_ref().map_or_else(unknown, ToString::to_string),
        DAMAGED.to_owned(),
        unknown(),
        damaged.created_at.map_or_else(unknown, |at| text::ago(at, now)),
        damaged.reason.clone(),
    ]
}

/// The text of `/transfers/ID` for a record that cannot be read.
pub(crate) fn damaged(damaged: &DamagedTransfer) -> String {
    let unknown = || "unknown".to_owned();
    let client = damaged.client.as_ref().map_or_else(unknown, ToString::to_string);
    let created = damaged.created_at.map_or_else(unknown, text::second);
    let problem = damaged.problem();
    format!(
        "Damaged: {} {}\ntransfer  {}\nclient    {client}\nasked     {created}\n",
        problem.detail, problem.hint, damaged.id
    )
}

/// Returns the last column: the size and the fate of the file, the progress, the problem, or what the transfer waits for.
fn outcome(view: &View, place: Option<usize>) -> String {
    match (view.state(), &view.transfer.phase) {
        (TransferState::Waiting(waiting_for), _) => text::waits(view, waiting_for, place),
        (TransferState::Running, _) => {
            text::progress(view).unwrap_or_else(|| "no answer yet".to_owned())
        }
        (_, Phase::Done(published)) => {
            let size = human::size(published.download().size);
            match view.download_state {
                DownloadState::Stored => size,
                lost @ (DownloadState::Damaged | DownloadState::Deleted) => {
                    format!("{size}, {}", lost.as_str())
                }
            }
        }
        (_, Phase::Unchanged(unchanged)) => format!("since {}", unchanged.since),
        (_, Phase::Failed(failure) | Phase::Cancelled(failure)) => failure.problem.code.to_string(),
        (_, Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_)) => String::new(),
    }
}
