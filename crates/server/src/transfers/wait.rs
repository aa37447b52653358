//! How long a transfer waits for what the server itself lacks, and for a later deadline.

use chrono::{DateTime, Utc};
use filepull_core::backoff::RetryCause;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep, timeout};
use tracing::warn;

use super::failed::NotSaved;
use super::now;
use super::space::shortage;
use super::task::{Ending, TransferTask};
use super::view::{Activity, WaitingFor};

/// Since when a transfer waits for the server's disk, and how many bytes were durable then.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskWait {
    since: DateTime<Utc>,
    durable: u64,
}

impl TransferTask {
    /// Records that the server lacks a resource for an attempt, and waits until another attempt can
    /// succeed. A plain pull without received bytes does not wait for space: its caller gets the
    /// problem.
    pub(super) async fn hindered(&mut self, problem: Problem) -> Result<(), Ending> {
        let problem = self.explained(problem).await;
        let is_full = problem.code == Code::ServerFull;
        if is_full && self.transfer.queue_until.is_none() && !self.has_bytes() {
            return Err(problem.into());
        }
        self.log_interrupted(&problem.detail);
        if is_full {
            self.back_to_checkpoint().await?;
        }
        let wait = self.disk_wait();
        self.disk_wait = Some(wait);
        let pause = self.backoff.next(RetryCause::Lost { lived: Duration::ZERO }, fastrand::f64());
        let mut elapsed = false;
        loop {
            let deadline = self.disk_deadline(wait.since);
            if deadline <= now() {
                return Err(problem.into());
            }
            let stage = Activity::Waiting(WaitingFor::Disk);
            self.show_until(stage, Some(deadline), Some(problem.detail.clone()));
            let needed = if is_full { self.needed().await } else { 0 };
            let space_is_back = {
                let (disk, min_free) = (self.shared.disk.clone(), self.shared.limits.min_free);
                async move {
                    if !elapsed {
                        sleep(pause).await;
                    }
                    if !is_full {
                        return;
                    }
                    loop {
                        let space = disk.space(Duration::MAX).await;
                        if space.is_ok_and(|space| shortage(space, needed, min_free).is_none()) {
                            break;
                        }
                        disk.next_sample().await;
                    }
                }
            };
            let left = (deadline - Utc::now()).to_std().unwrap_or_default();
            match self.or_cancelled(timeout(left, space_is_back)).await? {
                Ok(()) => return Ok(()),
                // The deadline may have been moved meanwhile.
                Err(_) => elapsed = true,
            }
        }
    }

    /// A disk without inodes reports the same error as one without space.
    async fn explained(&self, problem: Problem) -> Problem {
        if problem.code != Code::ServerFull {
            return problem;
        }
        let space = self.shared.disk.space(Duration::ZERO).await;
        match space.ok().and_then(|space| shortage(space, 0, 0)) {
            Some(detail) => Problem { detail, ..problem },
            None => problem,
        }
    }

    /// Returns whether the transfer has received bytes, for which it waits.
    fn has_bytes(&self) -> bool {
        self.was_admitted || 0 < self.transfer.durable()
    }

    /// Drops what was received after the checkpoint: a partial whose write failed must not be used
    /// any more. Its reserved space is free again.
    async fn back_to_checkpoint(&mut self) -> Result<(), Ending> {
        self.held = None;
        match self.recover_prefix().await {
            // The next attempt recovers the prefix again.
            Ok(()) | Err(Ending::NotNow(_)) => {}
            Err(ending) => return Err(ending),
        }
        let received = self.received();
        self.view.send_modify(|view| view.bytes_done = received);
        Ok(())
    }

    /// Returns how many bytes the file still needs, as far as its size is known.
    async fn needed(&mut self) -> u64 {
        let size = self.view.borrow().source.as_ref().map_or(0, |source| source.size);
        let owned = self.allocated().await;
        size.saturating_sub(owned)
    }

    /// Returns the current wait, or a new one if bytes became durable since.
    fn disk_wait(&self) -> DiskWait {
        let durable = self.transfer.durable();
        match self.disk_wait {
            Some(wait) if durable <= wait.durable => wait,
            Some(_) | None => DiskWait { since: now(), durable },
        }
    }

    fn disk_deadline(&self, since: DateTime<Utc>) -> DateTime<Utc> {
        let resume_until = since + self.shared.limits.resume_within;
        match self.transfer.queue_until {
            Some(queue_until) if self.has_bytes() => queue_until.max(resume_until),
            Some(queue_until) => queue_until,
            None => resume_until,
        }
    }

    pub(super) fn log_interrupted(&self, reason: &str) {
        let Transfer { id, client, .. } = &self.transfer;
        let bytes_done = self.received();
        warn!(
            event = "transfer.interrupted", transfer = %id, %client, bytes_done,
            attempt = self.transfer.attempt, reason, "transfer interrupted"
        );
        self.view.send_modify(|view| view.bytes_per_second = None);
    }

    /// Moves the deadline, durably, before `done` is answered. A transfer that is already ending
    /// does not answer.
    pub(super) async fn extend(
        &mut self,
        until: DateTime<Utc>,
        done: oneshot::Sender<Result<(), Problem>>,
    ) {
        if self.transfer.is_final() {
            return;
        }
        let before = self.transfer.queue_until;
        // A deadline that was shown must be kept.
        let shown = self.view.borrow().expires_at;
        let later = before.max(shown).max(Some(until));
        let saved = if later == before {
            Ok(())
        } else {
            self.transfer.queue_until = later;
            self.shared.save(&self.transfer).await
        };
        if saved.is_err() {
            self.transfer.queue_until = before;
        } else {
            self.view.send_modify(|view| {
                view.transfer.queue_until = later;
                view.expires_at = view.expires_at.and(later);
            });
        }
        // A caller that disconnected needs no answer.
        let _ = done.send(saved.map_err(NotSaved::into_problem));
    }
}
