//! Lets old transfers leave the records, a few at a time.
//!
//! A transfer stays for as long as its download lies on the disk, whatever its age: its record is
//! what the file is served by, and what it can be verified against. Which files stay is not decided
//! here.

use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use filepull_core::human;
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::records::{OldTransfers, Records, RecordsError};
use crate::store::Store;

/// How many records leave in one commit: a trigger that comes meanwhile waits for them.
const AT_ONCE: u32 = 32;

/// Between two looks at the most.
const DAY: Duration = Duration::from_hours(24);

/// How long the record of a final transfer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// For this time.
    For(Duration),
    /// Nothing leaves.
    Forever,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "forever" => Ok(Self::Forever),
            _ => human::parse_duration(text)
                .map(Self::For)
                .map_err(|error| format!("{error} Or write forever.")),
        }
    }
}

/// What one look at all old records came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RetentionPass {
    forgotten: usize,
    /// Their downloads are still there.
    kept: usize,
}

/// Where the scan for old records is.
#[derive(Debug)]
struct ScanPosition {
    old: OldTransfers,
    n_passes: u32,
}

/// Number of passes after which the scan begins again with the oldest record: downloads may have
/// been deleted meanwhile. With the default that is once in 30 days.
const PASSES_PER_SCAN: u32 = 30;

impl ScanPosition {
    fn new(records: &Records) -> Self {
        Self { old: records.old_transfers(), n_passes: 0 }
    }

    fn begin_pass(&mut self, records: &Records) {
        if self.n_passes == PASSES_PER_SCAN {
            *self = Self::new(records);
        }
        self.n_passes += 1;
    }
}

/// Looks for old records again and again. Ends when nothing new may begin.
pub(crate) async fn run(records: Records, store: Store, keep: Keep, drain: CancellationToken) {
    let mut scan = ScanPosition::new(&records);
    loop {
        let began = Instant::now();
        match drain.run_until_cancelled(pass(&records, &store, keep, &mut scan)).await {
            None => return,
            Some(Ok(RetentionPass { forgotten, kept })) if 0 < forgotten => {
                let seconds = began.elapsed().as_secs_f64();
                info!(
                    event = "records.forgotten",
                    transfers = forgotten,
                    kept,
                    duration_seconds = seconds,
                    "old transfers left the records"
                );
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(event = "records.forget_failed", %error, cause, "old records stay for now");
            }
        }
        if drain.run_until_cancelled(sleep(every(keep))).await.is_none() {
            return;
        }
    }
}

/// Once a day, which is a thirtieth of the default: so much longer may a record stay.
fn every(keep: Keep) -> Duration {
    match keep {
        Keep::For(time) => (time / 30).min(DAY),
        Keep::Forever => DAY,
    }
}

/// Checks the transfers that have become too old since the last pass.
async fn pass(
    records: &Records,
    store: &Store,
    keep: Keep,
    scan: &mut ScanPosition,
) -> Result<RetentionPass, RecordsError> {
    let now = Utc::now();
    while records.forget_keys(now, AT_ONCE).await? {}
    let mut pass = RetentionPass::default();
    // What is kept for longer than time goes back is kept for ever.
    let before = match keep {
        Keep::For(time) => TimeDelta::from_std(time).ok().and_then(|t| now.checked_sub_signed(t)),
        Keep::Forever => None,
    };
    let Some(before) = before else { return Ok(pass) };
    scan.begin_pass(records);
    loop {
        let began = Instant::now();
        let Some(transfers) = scan.old.next(before, AT_ONCE).await? else { return Ok(pass) };
        let n_old = transfers.len();
        let gone = without_download(store, transfers).await;
        if !gone.is_empty() {
            records.forget(&gone).await?;
        }
        pass.forgotten += gone.len();
        pass.kept += n_old - gone.len();
        // Half of the time is for others: nobody waits for this.
        sleep(began.elapsed()).await;
    }
}

/// Those whose download, if they had one, certainly lies on the disk no more.
async fn without_download(store: &Store, transfers: Vec<Transfer>) -> Vec<TransferId> {
    let store = store.clone();
    let look = spawn_blocking(move || {
        let is_gone = |transfer: &Transfer| {
            let Some(download) = transfer.download() else { return true };
            let found = store.has_download(&transfer.client, &download.name);
            found.is_ok_and(|found| !found)
        };
        transfers.into_iter().filter(is_gone).map(|transfer| transfer.id).collect()
    });
    // A look that was cut short has seen nothing.
    look.await.unwrap_or_default()
}

#[cfg(test)]
mod tests;
