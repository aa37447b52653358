//! A transfer as callers see it: its record, and its progress since.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use filepull_core::id::ClientId;
use filepull_core::source::Source;
use filepull_core::transfer::{Phase, Transfer};

use crate::records::{DamagedTransfer, DownloadState};

/// A transfer at one point in time.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The transfer as it is on record.
    pub transfer: Transfer,
    /// What it does now; not used once the transfer is final.
    pub activity: Activity,
    /// The source, once the agent has opened it.
    pub source: Option<Source>,
    /// The bytes received in all attempts.
    pub bytes_done: u64,
    /// The bytes of content on the wire in all attempts.
    pub bytes_sent: u64,
    /// The smoothed speed of the file; none while no byte arrives.
    pub bytes_per_second: Option<u64>,
    /// The transfer fails if it still waits at this time.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why the transfer waits, as text; none if `waiting_for` is the complete reason.
    pub reason: Option<String>,
    /// What is known about the download; not used before the transfer is done.
    pub download_state: DownloadState,
}

/// What an unfinished transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It is not on record yet: no caller may learn of it.
    Recording,
    /// It is on record. Whether its client is connected is not known yet.
    Starting,
    /// It waits for a resource or for its client.
    Waiting(WaitingFor),
    /// The order was sent and has no answer yet.
    Ordered,
    /// The client has opened the file, and sends it.
    Running,
}

/// What a waiting transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitingFor {
    /// The client is not connected.
    Client,
    /// The client sends another file first.
    OtherFile,
    /// The maximum number of transfers runs.
    Permit,
    /// The server's disk is full, fails or does not respond, or a record cannot be read or written.
    Disk,
}

/// The public state of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferState {
    /// The transfer has not started, or was interrupted.
    Waiting(WaitingFor),
    /// Ordered, being sent, or being published.
    Running,
    /// The download has its final name.
    Done,
    /// The file equals an earlier download, so there is no new one.
    Unchanged,
    /// The transfer ended with an error.
    Failed,
    /// A caller cancelled the transfer.
    Cancelled,
}

impl TransferState {
    /// The name of the state in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting(_) => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl View {
    pub(crate) fn new(transfer: Transfer) -> Self {
        let source = transfer.source().cloned();
        let bytes_done = transfer.received();
        let bytes_sent = transfer.sent;
        let expires_at = transfer.queue_until;
        Self {
            transfer,
            activity: Activity::Recording,
            source,
            bytes_done,
            bytes_sent,
            bytes_per_second: None,
            expires_at,
            reason: None,
            download_state: DownloadState::Stored,
        }
    }

    /// Shows a wait for the server's disk or records.
    pub(crate) fn wait_for_disk(&mut self, reason: &str) {
        self.activity = Activity::Waiting(WaitingFor::Disk);
        self.reason = Some(reason.to_owned());
        self.bytes_per_second = None;
    }

    /// Returns the state as the API shows it.
    pub(crate) fn state(&self) -> TransferState {
        match (&self.transfer.phase, self.activity) {
            (Phase::Done(_), _) => TransferState::Done,
            (Phase::Unchanged(_), _) => TransferState::Unchanged,
            (Phase::Failed(_), _) => TransferState::Failed,
            (Phase::Cancelled(_), _) => TransferState::Cancelled,
            (_, Activity::Waiting(waiting_for)) => TransferState::Waiting(waiting_for),
            // The client has nothing more to do.
            (Phase::Sealed(_), _) => TransferState::Running,
            (_, Activity::Recording | Activity::Starting) => {
                TransferState::Waiting(WaitingFor::Permit)
            }
            (_, Activity::Ordered | Activity::Running) => TransferState::Running,
        }
    }

    /// Returns whether a trigger has its complete answer: the client accepted or rejected the order,
    /// or cannot get it now.
    pub(crate) fn is_settled(&self) -> bool {
        self.transfer.is_final()
            || matches!(self.activity, Activity::Waiting(_) | Activity::Running)
    }

    /// Returns the received share of the file in percent; none while the size is unknown.
    pub(crate) fn percent(&self) -> Option<u64> {
        let size = self.source.as_ref()?.size;
        // An empty file is complete from the start.
        Some(self.bytes_done.saturating_mul(100).checked_div(size).unwrap_or(100))
    }

    /// Returns the remaining time at the current speed.
    pub(crate) fn eta(&self) -> Option<Duration> {
        let left =
            self.source.as_ref()?.size.checked_sub(self.bytes_done).filter(|&left| 0 < left)?;
        let bytes_per_second = self.bytes_per_second.filter(|&rate| 0 < rate)?;
        Some(Duration::from_secs(left / bytes_per_second))
    }
}

/// The activity of unfinished transfers, as lists filter it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivityFilter {
    /// Queued, or waiting for something else.
    Waiting,
    /// Ordered from the agent, or being received.
    Running,
}

impl ActivityFilter {
    /// Returns whether the filter selects transfers in this state.
    pub(crate) fn selects(self, state: TransferState) -> bool {
        match state {
            TransferState::Waiting(_) => self == Self::Waiting,
            TransferState::Running => self == Self::Running,
            TransferState::Done
            | TransferState::Unchanged
            | TransferState::Failed
            | TransferState::Cancelled => false,
        }
    }
}

/// An item of a list of transfers.
#[derive(Clone, Debug)]
pub(crate) enum TransferListItem {
    /// A transfer whose record can be read.
    View(Box<View>),
    /// A record that cannot be read.
    Damaged(DamagedTransfer),
}

impl TransferListItem {
    pub(crate) fn view(view: View) -> Self {
        Self::View(Box::new(view))
    }

    /// Returns the client of the transfer, if the record is readable so far.
    pub(crate) fn client(&self) -> Option<&ClientId> {
        match self {
            Self::View(view) => Some(&view.transfer.client),
            Self::Damaged(damaged) => damaged.client.as_ref(),
        }
    }

    /// Returns the transfer, unless its record is damaged.
    pub(crate) fn as_view(&self) -> Option<&View> {
        match self {
            Self::View(view) => Some(view),
            Self::Damaged(_) => None,
        }
    }
}

/// Measures the speed of an upload: an exponential mean with a half-life of a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    since: Instant,
    at: u64,
    smoothed: Option<f64>,
}

impl Speed {
    /// Shorter intervals are not measured: they depend on the scheduler, not on the network.
    const MIN_INTERVAL: Duration = Duration::from_millis(100);

    pub(crate) fn new(bytes: u64, now: Instant) -> Self {
        Self { since: now, at: bytes, smoothed: None }
    }

    /// Updates the number of received bytes. Returns the speed if it was measured again.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a speed for people, never negative, far below 2^53 bytes per second"
    )]
    pub(crate) fn update(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        let elapsed = now.duration_since(self.since);
        if elapsed < Self::MIN_INTERVAL {
            return None;
        }
        let seconds = elapsed.as_secs_f64();
        let current = bytes.saturating_sub(self.at) as f64 / seconds;
        let weight = 0.5f64.powf(seconds);
        let smoothed = self.smoothed.map_or(current, |old| old * weight + current * (1.0 - weight));
        *self = Self { since: now, at: bytes, smoothed: Some(smoothed) };
        Some(smoothed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_follows_the_network() {
        let start = Instant::now();
        let mut speed = Speed::new(0, start);
        assert_eq!(speed.update(10, start), None);
        assert_eq!(speed.update(1000, start + Duration::from_secs(1)), Some(1000));
        assert_eq!(speed.update(1000, start + Duration::from_secs(2)), Some(500));
    }
}
