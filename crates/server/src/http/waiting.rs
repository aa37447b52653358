//! The one waiting knob: `wait` means the same on every URL.

use std::time::Duration;

use filepull_core::id::TransferId;
use filepull_core::problem::Problem;
use tokio::sync::watch;
use tokio::time::timeout;

use super::App;
use super::params::Params;
use crate::transfers::{TransferListItem, View};

/// Proxies cut a silent answer at 60 s: `wait` alone ends before.
const BARE_WAIT: Duration = Duration::from_secs(50);

/// A transfer that takes longer is watched by repeated requests.
pub(super) const MAX_WAIT: Duration = Duration::from_hours(24);

/// How long the caller wants to wait for the end of a transfer.
pub(super) fn asked(params: &Params) -> Result<Option<Duration>, Problem> {
    params.span("wait", BARE_WAIT, MAX_WAIT)
}

/// Why a request stops waiting for its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// The transfer has reached the stage that the caller waits for.
    Reached,
    /// The wait timed out.
    TimeUp,
    /// The server stops.
    Stopping,
}

impl App {
    /// Watches a transfer until `enough`, at most for `limit`, and not when the server stops:
    /// the transfer continues after a restart, the waiting requests end.
    pub(super) async fn watch(
        &self,
        mut view: watch::Receiver<View>,
        limit: Duration,
        enough: impl Fn(&View) -> bool,
    ) -> (View, WaitEnd) {
        // An error means that the task of the transfer has ended, as it does when the server stops.
        let seen = async { view.wait_for(|view| enough(view)).await.is_ok() };
        let end = match self.lifecycle.drain().run_until_cancelled(timeout(limit, seen)).await {
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
    pub(super) async fn find(
        &self,
        id: TransferId,
        wait: Option<Duration>,
    ) -> Result<TransferListItem, Problem> {
        match (wait, self.transfers.watch(id)) {
            (Some(limit), Some(view)) => {
                let (view, _) = self.watch(view, limit, |view| view.transfer.is_final()).await;
                Ok(TransferListItem::View(Box::new(view)))
            }
            (Some(_) | None, _) => self.transfers.look_up(id).await,
        }
    }
}
