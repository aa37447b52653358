//! Reads every download back from the disk: once soon after it arrived, and again every
//! `SCRUB_EVERY`. It marks a download that has changed, and never changes a file.
//!
//! It reads one file at a time on a thread of its own with the lowest priority, at a bounded rate and
//! at most half of the time. It holds no lock and no permit. What it found is on record, so a restart
//! repeats at most the last few files.

mod reading;

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use filepull_core::human;
use filepull_core::id::TransferId;
use filepull_core::transfer::Transfer;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::records::{DownloadState, RecordedTransfer, Records, RecordsError, UnreadDownloads};
use crate::store::Store;
use reading::Reading;

/// A new download is first read after this time. The disk may be busy while files arrive, and bytes
/// that were written a moment ago may come from the memory of the disk.
const FIRST_AFTER: Duration = Duration::from_mins(10);

/// A damaged download is read again after this time, so that its mark goes soon after it was restored
/// from a backup or deleted.
const DAMAGED_EVERY: Duration = Duration::from_hours(1);

/// Maximum time between two searches for downloads that are due.
const SEARCH_EVERY: Duration = Duration::from_mins(1);

/// The scan for new downloads restarts after this time, at the downloads of the last day: a clock that
/// was set back ends a transfer behind the position of the scan.
const SCAN_EVERY: Duration = Duration::from_mins(30);

const DAY: TimeDelta = TimeDelta::days(1);

/// Number of records that are searched at once.
const PAGE_LEN: u32 = 256;

/// Number of files that are read before the search for new downloads continues and the results are
/// recorded.
const BATCH_LEN: u32 = 8;

/// Time after a damaged file. Bounds the log while a disk fails.
const PAUSE_AFTER_DAMAGE: Duration = Duration::from_secs(1);

/// How often downloads are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubInterval {
    /// Again when this time has passed since the last reading.
    Every(Duration),
    /// Never.
    Off,
}

impl FromStr for ScrubInterval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => human::parse_duration(text)
                .map(Self::Every)
                .map_err(|error| format!("{error} Or write off.")),
        }
    }
}

/// Reads downloads until `drain` is cancelled.
pub(crate) async fn run(
    records: Records,
    store: Store,
    interval: ScrubInterval,
    drain: CancellationToken,
) {
    let ScrubInterval::Every(every) = interval else { return };
    let unread = records.unread_downloads(DateTime::UNIX_EPOCH);
    let scan_began = Instant::now();
    let due = VecDeque::new();
    let mut scrubber = Scrubber { records, store, every, unread, scan_began, due };
    drain.run_until_cancelled(scrubber.scrub()).await;
}

/// A download that is due, and its state at the last reading.
type DueDownload = (TransferId, DownloadState);

#[derive(Debug)]
struct Scrubber {
    records: Records,
    store: Store,
    every: Duration,
    unread: UnreadDownloads,
    scan_began: Instant,
    /// At most one page.
    due: VecDeque<DueDownload>,
}

impl Scrubber {
    async fn scrub(&mut self) {
        let search_every = SEARCH_EVERY.min(self.every / 2);
        // First the pause: a server that starts has more urgent work.
        loop {
            sleep(search_every).await;
            if let Err(error) = self.read_due().await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(
                    event = "scrub.failed", %error, cause,
                    "cannot read the records of downloads; tries again"
                );
            }
        }
    }

    /// Reads every download that is due.
    async fn read_due(&mut self) -> Result<(), RecordsError> {
        loop {
            self.search().await?;
            if self.due.is_empty() || !self.read_batch().await? {
                return Ok(());
            }
        }
    }

    /// Searches the next downloads that are due: new ones first, because they may be the only copy.
    async fn search(&mut self) -> Result<(), RecordsError> {
        if self.due.is_empty() {
            self.search_unread().await?;
        }
        let now = Utc::now();
        if self.due.is_empty() {
            let read_until = now - DAMAGED_EVERY.min(self.every);
            self.due.extend(self.records.damaged_before(read_until, BATCH_LEN).await?);
        }
        if self.due.is_empty() {
            self.due.extend(self.records.scrubbed_before(now - self.every, BATCH_LEN).await?);
        }
        Ok(())
    }

    async fn search_unread(&mut self) -> Result<(), RecordsError> {
        if SCAN_EVERY <= self.scan_began.elapsed() {
            self.unread = self.records.unread_downloads(Utc::now() - DAY);
            self.scan_began = Instant::now();
        }
        let ended_until = Utc::now() - FIRST_AFTER.min(self.every);
        while self.due.is_empty() {
            let started = Instant::now();
            let Some(unread) = self.unread.next(ended_until, PAGE_LEN).await? else { break };
            self.due.extend(unread.into_iter().map(|id| (id, DownloadState::Stored)));
            // Uses at most half of the time, because lists wait for the same connections.
            sleep(started.elapsed()).await;
        }
        Ok(())
    }

    /// Reads a few files and records their states. Returns whether there was any progress.
    async fn read_batch(&mut self) -> Result<bool, RecordsError> {
        let mut same = Vec::new();
        let mut has_changes = false;
        for _ in 0..BATCH_LEN {
            let Some((id, last_state)) = self.due.pop_front() else { break };
            let transfer = match self.records.transfer(id).await? {
                Some(RecordedTransfer::Readable(transfer)) => transfer,
                Some(RecordedTransfer::Damaged(_)) => {
                    // Its turn comes again, after the others.
                    same.push((id, last_state));
                    continue;
                }
                None => {
                    self.records.forget_scrub(id).await?;
                    continue;
                }
            };
            let Some(Reading { state, reason }) = reading::read(&self.store, &transfer).await
            else {
                continue;
            };
            if state == last_state {
                same.push((id, state));
                continue;
            }
            has_changes = true;
            // A mark is on record before the log names it.
            self.records.note_scrubs(&[(id, state)], Utc::now()).await?;
            log_change(&transfer, last_state, state, &reason);
            if state == DownloadState::Damaged {
                sleep(PAUSE_AFTER_DAMAGE).await;
            }
        }
        let has_progress = has_changes || !same.is_empty();
        if !same.is_empty() {
            self.records.note_scrubs(&same, Utc::now()).await?;
        }
        Ok(has_progress)
    }
}

fn log_change(transfer: &Transfer, last_state: DownloadState, state: DownloadState, reason: &str) {
    let id = transfer.id;
    let client = &transfer.client;
    let file = transfer.download().map(|download| download.name.to_string());
    match (last_state, state) {
        (_, DownloadState::Damaged) => error!(
            event = "download.damaged", transfer = %id, %client, file, reason,
            "a download has changed since it arrived; pull it again"
        ),
        (DownloadState::Damaged, DownloadState::Stored) => info!(
            event = "download.restored", transfer = %id, %client, file,
            "a download that was damaged is as it arrived"
        ),
        (_, DownloadState::Stored | DownloadState::Deleted) => {}
    }
}

#[cfg(test)]
mod tests;
