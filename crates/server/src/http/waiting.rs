//! The one waiting knob: `wait` means the same on every URL.

use std::time::Duration;

use filepull_core::id::TransferId;
use filepull_core::problem::Problem;
use tokio::sync::watch;
use tokio::time::timeout;

use super::App;
use super::params::Params;
use crate::transfers::{Listed, View};

/// Proxies cut a silent answer at 60 s: `wait` alone ends before.
const BARE_WAIT: Duration = Duration::from_secs(50);

pub(super) const MAX_WAIT: Duration = Duration::from_mins(10);

/// How long the caller wants to wait for the end of a transfer.
pub(super) fn asked(params: &Params) -> Result<Option<Duration>, Problem> {
    params.span("wait", BARE_WAIT, MAX_WAIT)
}

impl App {
    /// Watches a transfer until `enough`, at most for `limit`, and not when the server stops:
    /// the transfer goes on after a restart, its watchers need not.
    pub(super) async fn watch(
        &self,
        mut view: watch::Receiver<View>,
        limit: Duration,
        enough: impl Fn(&View) -> bool,
    ) -> View {
        let seen = async {
            // An error means that its task has ended: what it showed last is all there is.
            let _ = view.wait_for(|view| enough(view)).await;
        };
        let _ = self.lifecycle.drain().run_until_cancelled(timeout(limit, seen)).await;
        view.borrow().clone()
    }

    /// A transfer: now, or once it is final or the time is up.
    pub(super) async fn find(
        &self,
        id: TransferId,
        wait: Option<Duration>,
    ) -> Result<Listed, Problem> {
        match (wait, self.transfers.watch(id)) {
            (Some(limit), Some(view)) => {
                let view = self.watch(view, limit, |view| view.transfer.is_final()).await;
                Ok(Listed::View(Box::new(view)))
            }
            (Some(_) | None, _) => self.transfers.look_up(id).await,
        }
    }
}
