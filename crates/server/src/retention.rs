//! Removes old transfers from the records, a few at a time.
//!
//! A transfer of any age stays on record as long as its download exists, because serving and
//! verifying the file need the record. This module never deletes a download.

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

/// Maximum number of records that one commit removes. A new trigger waits for the commit.
const BATCH_LEN: u32 = 32;

/// Maximum time between two passes.
const DAY: Duration = Duration::from_hours(24);

/// How long the record of a finished transfer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until this time after the end of the transfer.
    For(Duration),
    /// Old records are never removed.
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

/// The result of one pass over the old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RetentionPass {
    /// Number of records that were removed.
    forgotten: usize,
    /// Number of old records whose downloads exist.
    kept: usize,
}

/// The position of the scan for old records.
#[derive(Debug)]
struct ScanPosition {
    old: OldTransfers,
    n_passes: u32,
}

/// Number of passes after which the scan restarts at the oldest record, because downloads may have
/// been deleted since. With the default of `KEEP_RECORDS` it restarts every 30 days.
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

/// Removes old records periodically. Ends when `drain` is cancelled.
pub(crate) async fn run(records: Records, store: Store, keep: Keep, drain: CancellationToken) {
    let mut scan = ScanPosition::new(&records);
    loop {
        let started = Instant::now();
        match drain.run_until_cancelled(pass(&records, &store, keep, &mut scan)).await {
            None => return,
            Some(Ok(RetentionPass { forgotten, kept })) if 0 < forgotten => {
                info!(
                    event = "records.forgotten",
                    transfers = forgotten,
                    kept,
                    duration_seconds = started.elapsed().as_secs_f64(),
                    "removed old transfers from the records"
                );
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(
                    event = "records.forget_failed",
                    %error,
                    cause,
                    "cannot remove old records; the next pass tries again"
                );
            }
        }
        if drain.run_until_cancelled(sleep(interval(keep))).await.is_none() {
            return;
        }
    }
}

/// Returns the time between two passes: at most a day, the default. A record may stay this much
/// longer than `keep`.
fn interval(keep: Keep) -> Duration {
    match keep {
        Keep::For(time) => (time / 30).min(DAY),
        Keep::Forever => DAY,
    }
}

/// Removes the transfers that have become too old since the last pass, and expired keys.
async fn pass(
    records: &Records,
    store: &Store,
    keep: Keep,
    scan: &mut ScanPosition,
) -> Result<RetentionPass, RecordsError> {
    let now = Utc::now();
    while records.forget_keys(now, BATCH_LEN).await? {}
    let mut pass = RetentionPass::default();
    // A duration that is longer than the calendar allows keeps the records forever.
    let oldest_kept = match keep {
        Keep::For(time) => TimeDelta::from_std(time).ok().and_then(|t| now.checked_sub_signed(t)),
        Keep::Forever => None,
    };
    let Some(before) = oldest_kept else { return Ok(pass) };
    scan.begin_pass(records);
    loop {
        let started = Instant::now();
        let Some(transfers) = scan.old.next(before, BATCH_LEN).await? else { return Ok(pass) };
        let n_old = transfers.len();
        let gone = without_download(store, transfers).await;
        if !gone.is_empty() {
            records.forget(&gone).await?;
        }
        pass.forgotten += gone.len();
        pass.kept += n_old - gone.len();
        // Uses at most half of the time, because no caller waits for this and other writes do.
        sleep(started.elapsed()).await;
    }
}

/// Returns the transfers that have no download, or whose download certainly does not exist.
async fn without_download(store: &Store, transfers: Vec<Transfer>) -> Vec<TransferId> {
    let store = store.clone();
    let job = spawn_blocking(move || {
        let is_gone = |transfer: &Transfer| {
            let Some(download) = transfer.download() else { return true };
            let found = store.has_download(&transfer.client, &download.name);
            found.is_ok_and(|found| !found)
        };
        transfers.into_iter().filter(is_gone).map(|transfer| transfer.id).collect()
    });
    // If the job was cancelled, every record stays.
    job.await.unwrap_or_default()
}

#[cfg(test)]
mod tests;
