//! A transfer as others may see it: what is on record, and how far it has come since.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use filepull_core::source::Source;
use filepull_core::transfer::{Phase, Transfer};

/// A transfer at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// What is on record.
    pub transfer: Transfer,
    /// What it does right now; means nothing once the transfer is final.
    pub stage: Activity,
    /// The file, as soon as the agent has opened it.
    pub source: Option<Source>,
    /// Bytes received so far.
    pub bytes_done: u64,
    /// How fast bytes come, smoothed; none while nothing comes.
    pub bytes_per_second: Option<u64>,
    /// The deadline: the transfer fails if it still waits then.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why the transfer waits, as text; none if `waiting_for` says it all.
    pub reason: Option<String>,
}

/// What an unfinished transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It is not on record yet: nobody may be told of it.
    Recording,
    /// It is on record; whether the client can be asked is not known yet.
    Starting,
    /// It waits for something.
    Waiting(WaitingFor),
    /// The client has been asked and has not answered yet.
    Asked,
    /// The client has opened the file; bytes come or have come.
    Running,
}

/// What a waiting transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitingFor {
    /// The client is not connected.
    Client,
    /// The client sends another file first.
    OtherFile,
    /// The server runs its maximum.
    Turn,
    /// The server's disk is full, or does not do what the transfer needs next.
    Disk,
}

/// The public state of a transfer: five words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferState {
    /// Not begun, or interrupted.
    Waiting(WaitingFor),
    /// Asked for, being sent, or being published.
    Running,
    /// The file is here.
    Done,
    /// It ended with an error.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl TransferState {
    /// The word, as the API says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting(_) => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl View {
    pub(crate) fn new(transfer: Transfer) -> Self {
        let source = transfer.source().cloned();
        let bytes_done = transfer.received();
        let expires_at = transfer.queue_until;
        let stage = Activity::Recording;
        let bytes_per_second = None;
        Self { transfer, stage, source, bytes_done, bytes_per_second, expires_at, reason: None }
    }

    /// The public state.
    pub(crate) fn state(&self) -> TransferState {
        match (&self.transfer.phase, self.stage) {
            (Phase::Done(_), _) => TransferState::Done,
            (Phase::Failed(_), _) => TransferState::Failed,
            (Phase::Cancelled(_), _) => TransferState::Cancelled,
            (_, Activity::Waiting(waiting_for)) => TransferState::Waiting(waiting_for),
            // Its client has nothing more to do.
            (Phase::Sealed(_), _) => TransferState::Running,
            (_, Activity::Recording | Activity::Starting) => {
                TransferState::Waiting(WaitingFor::Turn)
            }
            (_, Activity::Asked | Activity::Running) => TransferState::Running,
        }
    }

    /// The trigger can be answered in full: the client agreed, refused, or cannot be asked now.
    pub(crate) fn is_settled(&self) -> bool {
        self.transfer.is_final() || matches!(self.stage, Activity::Waiting(_) | Activity::Running)
    }

    /// Share of the file that is here, 0 to 100; none while the size is unknown.
    pub(crate) fn percent(&self) -> Option<u64> {
        let size = self.source.as_ref()?.size;
        // An empty file is whole from the start.
        Some(self.bytes_done.saturating_mul(100).checked_div(size).unwrap_or(100))
    }

    /// How long the rest takes at the present speed.
    pub(crate) fn eta(&self) -> Option<Duration> {
        let left =
            self.source.as_ref()?.size.checked_sub(self.bytes_done).filter(|&left| 0 < left)?;
        let bytes_per_second = self.bytes_per_second.filter(|&rate| 0 < rate)?;
        Some(Duration::from_secs(left / bytes_per_second))
    }
}

/// Measures how fast bytes come: an exponential mean with a half-life of a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    since: Instant,
    at: u64,
    smoothed: Option<f64>,
}

impl Speed {
    /// Shorter stretches are not measured: they say more about the scheduler than about the line.
    const STRETCH: Duration = Duration::from_millis(100);

    pub(crate) fn new(bytes: u64, now: Instant) -> Self {
        Self { since: now, at: bytes, smoothed: None }
    }

    /// Notes that `bytes` are here now; returns the speed whenever it was measured anew.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a speed for people, never negative, far below 2^53 bytes per second"
    )]
    pub(crate) fn update(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        let seconds = now.duration_since(self.since);
        if seconds < Self::STRETCH {
            return None;
        }
        let seconds = seconds.as_secs_f64();
        let present = bytes.saturating_sub(self.at) as f64 / seconds;
        let keep = 0.5f64.powf(seconds);
        let smoothed = self.smoothed.map_or(present, |old| old * keep + present * (1.0 - keep));
        *self = Self { since: now, at: bytes, smoothed: Some(smoothed) };
        Some(smoothed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_follows_the_line() {
        let start = Instant::now();
        let mut speed = Speed::new(0, start);
        assert_eq!(speed.update(10, start), None);
        assert_eq!(speed.update(1000, start + Duration::from_secs(1)), Some(1000));
        assert_eq!(speed.update(1000, start + Duration::from_secs(2)), Some(500));
    }
}
