//! The one waiting knob: `wait` means the same on every URL.

use std::time::Duration;

use filepull_core::id::TransferId;
use filepull_core::problem::Problem;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::http::App;
use crate::transfers::{TransferListItem, View};

/// Why a request stops waiting for its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    /// The transfer has reached the stage that the caller waits for.
    Reached,
    /// The wait timed out.
    TimeUp,
    /// The server stops.
    Stopping,
}

/// Watches a transfer until `enough`, at most for `limit`, and not when the server stops:
/// the transfer continues after a restart, the waiting requests end.
pub(crate) async fn watch(
    app: &App,
    mut view: watch::Receiver<View>,
    limit: Duration,
    enough: impl Fn(&View) -> bool,
) -> (View, WaitEnd) {
    // An error means that the task of the transfer has ended, as it does when the server stops.
    let seen = async { view.wait_for(|view| enough(view)).await.is_ok() };
    let end = match app.lifecycle.drain().run_until_cancelled(timeout(limit, seen)).await {
        Some(Err(_)) => WaitEnd::TimeUp,
        Some(Ok(true)) => WaitEnd::Reached,
        Some(Ok(false)) | None => WaitEnd::Stopping,
    };
    let view = view.borrow().clone();
    // The transfer may have reached the stage at the same moment.
    let reached = enough(&view);
    (view, if reached { WaitEnd::Reached } else { end })
}

/// A transfer: now, or once it is final or the time is up.
pub(crate) async fn find(
    app: &App,
    id: TransferId,
    wait: Option<Duration>,
) -> Result<TransferListItem, Problem> {
    match (wait, app.transfers.watch(id)) {
        (Some(limit), Some(view)) => {
            let (view, _) = watch(app, view, limit, |view| view.transfer.is_final()).await;
            Ok(TransferListItem::View(Box::new(view)))
        }
        (Some(_) | None, _) => app.transfers.look_up(id).await,
    }
}
