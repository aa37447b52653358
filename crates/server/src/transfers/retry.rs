//! Decides when a transfer tries again, and when it gives up. No clock, no task.

use chrono::{DateTime, Utc};
use filepull_core::backoff::{Backoff, ReconnectPolicy, RetryCause};
use filepull_core::transfer::{Setbacks, Transfer};
use tokio::time::{Duration, Instant};

/// The failures of a transfer, and what follows from them.
#[derive(Debug)]
pub(crate) struct Retry {
    setbacks: Setbacks,
    /// Consecutive attempts without progress whose session ended.
    n_lost: u32,
    /// Since when no attempt has received anything.
    no_progress_since: Option<Instant>,
    backoff: Backoff,
    disk_wait: Option<DiskWait>,
    /// How long a client may be disconnected, and attempts may receive nothing.
    resume_within: Duration,
}

/// Since when a transfer waits for the server's disk, and how many bytes were durable then.
#[derive(Clone, Copy, Debug)]
struct DiskWait {
    since: DateTime<Utc>,
    durable: u64,
}

/// The backoff for an attempt over a session that is up, and for the server's own disk: from
/// 250 ms to 30 s.
pub(crate) fn retry_backoff() -> Backoff {
    let mut backoff = Backoff::default();
    backoff.follow(ReconnectPolicy {
        base: Duration::from_millis(125),
        cap: Duration::from_secs(30),
        spread: Duration::ZERO,
        stable: Duration::MAX,
    });
    backoff
}

/// Returns the next pause of a backoff. `random` is drawn evenly from `0.0..1.0`.
pub(crate) fn next_pause(backoff: &mut Backoff, random: f64) -> Duration {
    backoff.next(RetryCause::Lost { lived: Duration::ZERO }, random)
}

impl Retry {
    /// Continues with the setbacks that are on record.
    pub(crate) fn new(setbacks: Setbacks, resume_within: Duration) -> Self {
        Self {
            setbacks,
            n_lost: 0,
            no_progress_since: None,
            backoff: retry_backoff(),
            disk_wait: None,
            resume_within,
        }
    }

    /// The setbacks so far. The next change of the transfer records them.
    pub(crate) fn setbacks(&self) -> Setbacks {
        self.setbacks
    }

    /// Counts a change of the source. Returns whether the transfer may try again.
    pub(crate) fn source_changed(&mut self) -> bool {
        self.setbacks.changed += 1;
        self.setbacks.changed < Transfer::MAX_CHANGED
    }

    /// Counts a damaged upload. Returns whether the transfer may try again.
    pub(crate) fn damaged(&mut self) -> bool {
        self.setbacks.damaged += 1;
        self.setbacks.damaged < Transfer::MAX_DAMAGED
    }

    /// Counts an interrupted attempt, and returns the pause before the next one; none if the
    /// transfer must give up. The pause grows while nothing is received.
    pub(crate) fn interrupted(
        &mut self,
        progress: bool,
        session_is_up: bool,
        now: Instant,
        random: f64,
    ) -> Option<Duration> {
        if progress {
            self.setbacks.stalled = 0;
            self.n_lost = 0;
            self.no_progress_since = None;
            self.backoff = retry_backoff();
        } else if session_is_up {
            self.setbacks.stalled += 1;
        } else {
            self.n_lost += 1;
        }
        let too_often =
            Transfer::MAX_STALLED <= self.setbacks.stalled || Transfer::MAX_LOST <= self.n_lost;
        // A firewall that blocks only uploads must not end a transfer sooner than a firewall that
        // blocks the whole client.
        let too_long = !progress && {
            let since = *self.no_progress_since.get_or_insert(now);
            self.resume_within <= now - since
        };
        if too_often && too_long { None } else { Some(self.pause(random)) }
    }

    /// Returns the pause before the next attempt, from 250 ms to 30 s.
    pub(crate) fn pause(&mut self, random: f64) -> Duration {
        next_pause(&mut self.backoff, random)
    }

    /// Returns until when the transfer waits for a client that is disconnected since `since`. A
    /// transfer whose first order was never sent waits as long as its caller requested. A started
    /// transfer also waits for the client to return.
    pub(crate) fn client_deadline(
        &self,
        transfer: &Transfer,
        since: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let resume_until = since + self.resume_within;
        match (transfer.started_at, transfer.queue_until) {
            (None, Some(queue_until)) => queue_until,
            (Some(_), Some(queue_until)) => queue_until.max(resume_until),
            (_, None) => resume_until,
        }
    }

    /// Begins to wait for the server's disk, or continues the previous wait if no byte became
    /// durable since. Returns the beginning of the wait.
    pub(crate) fn wait_for_disk(&mut self, durable: u64, now: DateTime<Utc>) -> DateTime<Utc> {
        let wait = match self.disk_wait {
            Some(wait) if durable <= wait.durable => wait,
            Some(_) | None => DiskWait { since: now, durable },
        };
        self.disk_wait = Some(wait);
        wait.since
    }

    /// Returns until when the transfer waits for the server's disk. A transfer without received
    /// bytes waits only as long as its caller requested.
    pub(crate) fn disk_deadline(
        &self,
        transfer: &Transfer,
        since: DateTime<Utc>,
        has_bytes: bool,
    ) -> DateTime<Utc> {
        let resume_until = since + self.resume_within;
        match transfer.queue_until {
            Some(queue_until) if has_bytes => queue_until.max(resume_until),
            Some(queue_until) => queue_until,
            None => resume_until,
        }
    }
}

#[cfg(test)]
mod tests {
    use filepull_core::id::ClientId;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn retry() -> Retry {
        Retry::new(Setbacks::default(), MINUTE)
    }

    fn transfer() -> Transfer {
        let client = ClientId::parse("client4").unwrap();
        Transfer::new(client, None, "test".to_owned(), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_transfer_gives_up_only_after_enough_attempts_and_enough_time() {
        let start = Instant::now();
        for (session_is_up, max) in [(true, Transfer::MAX_STALLED), (false, Transfer::MAX_LOST)] {
            let mut retry = retry();
            for _ in 0..=max {
                assert!(retry.interrupted(false, session_is_up, start, 0.5).is_some());
            }
            assert_eq!(retry.interrupted(false, session_is_up, start + MINUTE, 0.5), None);
        }
        let mut retry = retry();
        assert!(retry.interrupted(false, true, start, 0.5).is_some());
        assert!(retry.interrupted(false, true, start + MINUTE * 9, 0.5).is_some(), "too few");
    }

    #[test]
    fn progress_resets_the_counters_and_the_pause() {
        let start = Instant::now();
        let mut retry = retry();
        let first = retry.interrupted(false, true, start, 1.0).unwrap();
        let second = retry.interrupted(false, true, start, 1.0).unwrap();
        assert!(first < second, "{first:?} {second:?}");
        assert_eq!(retry.setbacks().stalled, 2);
        assert_eq!(retry.interrupted(true, true, start + MINUTE * 9, 1.0), Some(first));
        assert_eq!(retry.setbacks().stalled, 0);
        for _ in 0..=Transfer::MAX_STALLED {
            let pause = retry.interrupted(false, true, start + MINUTE * 10, 1.0);
            assert!(pause.is_some(), "the time counts from the last progress");
        }
    }

    #[test]
    fn the_pause_stays_below_its_cap() {
        let mut retry = retry();
        let pauses: Vec<Duration> = (0..20).map(|_| retry.pause(1.0)).collect();
        assert_eq!(pauses[0], Duration::from_millis(250));
        assert_eq!(pauses[19], Duration::from_secs(30));
    }

    #[test]
    fn setbacks_on_record_count() {
        let setbacks = Setbacks { changed: 1, damaged: 0, stalled: 0 };
        let mut retry = Retry::new(setbacks, MINUTE);
        assert!(retry.source_changed());
        assert!(!retry.source_changed());
        assert!(retry.damaged());
        assert!(!retry.damaged());
        assert_eq!(retry.setbacks(), Setbacks { changed: 3, damaged: 2, stalled: 0 });
    }

    #[test]
    fn a_started_transfer_also_waits_for_the_client_to_return() {
        let at = |minutes| DateTime::UNIX_EPOCH + MINUTE * minutes;
        let check = |started: bool, queue_until: Option<u32>, client: u32, disk: u32| {
            let transfer = Transfer {
                started_at: started.then(|| at(1)),
                queue_until: queue_until.map(at),
                ..transfer()
            };
            let retry = retry();
            assert_eq!(retry.client_deadline(&transfer, at(5)), at(client));
            assert_eq!(retry.disk_deadline(&transfer, at(5), started), at(disk));
        };
        check(false, None, 6, 6);
        check(false, Some(2), 2, 2);
        check(true, None, 6, 6);
        check(true, Some(2), 6, 6);
        check(true, Some(9), 9, 9);
    }

    #[test]
    fn a_wait_for_the_disk_begins_again_only_after_progress() {
        let at = |minutes| DateTime::UNIX_EPOCH + MINUTE * minutes;
        let mut retry = retry();
        assert_eq!(retry.wait_for_disk(7, at(1)), at(1));
        assert_eq!(retry.wait_for_disk(7, at(2)), at(1));
        assert_eq!(retry.wait_for_disk(8, at(3)), at(3));
    }
}
