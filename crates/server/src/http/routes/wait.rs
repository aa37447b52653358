//! Waits until a transfer reaches a state, for every URL that has the parameter `wait`.

use std::time::Duration;

use filepull_core::id::TransferId;
use filepull_core::problem::Problem;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::http::App;
use crate::scope::Scope;
use crate::transfers::{TransferListItem, View};

/// Why a request stops waiting for its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    /// The transfer reached the state that the request waits for.
    Reached,
    TimedOut,
    Draining,
}

/// Watches a transfer until `reached` is true, at most for `limit`. Ends early when the server drains:
/// the transfer continues after a restart, a waiting request does not.
pub(crate) async fn watch(
    app: &App,
    mut view: watch::Receiver<View>,
    limit: Duration,
    reached: impl Fn(&View) -> bool,
) -> (View, WaitEnd) {
    // An error means that the task of the transfer ended because the server stops.
    let wait = async { view.wait_for(|view| reached(view)).await.is_ok() };
    let end = match app.lifecycle.drain().run_until_cancelled(timeout(limit, wait)).await {
        Some(Err(_)) => WaitEnd::TimedOut,
        Some(Ok(true)) => WaitEnd::Reached,
        Some(Ok(false)) | None => WaitEnd::Draining,
    };
    let last_view = view.borrow().clone();
    // The transfer may reach the state at the same time as the wait ends.
    let is_reached = reached(&last_view);
    (last_view, if is_reached { WaitEnd::Reached } else { end })
}

/// Returns a transfer in scope: at once, or with `wait` when it is final or the wait timed out.
pub(crate) async fn find(
    app: &App,
    id: TransferId,
    scope: &Scope,
    wait: Option<Duration>,
) -> Result<TransferListItem, Problem> {
    let found = app.transfers.look_up(id, scope).await?;
    match (wait, app.transfers.watch(id)) {
        (Some(limit), Some(view)) => {
            let (view, _) = watch(app, view, limit, |view| view.transfer.is_final()).await;
            Ok(TransferListItem::View(Box::new(view)))
        }
        (Some(_), None) => app.transfers.look_up(id, scope).await,
        (None, _) => Ok(found),
    }
}
