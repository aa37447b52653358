//! Waits of a transfer: for its client, for its permits, for the server's disk, and between two
//! attempts.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout};

use super::outcome::Outcome;
use super::space::shortage;
use super::task::TransferTask;
use super::view::{Activity, WaitingFor};
use super::{TaskContext, now};
use crate::client::DisconnectReason;
use crate::registry::{self, ClientView, EndReason, SessionHandle};
use crate::scope::Scope;

/// How long the clients of the previous server process have to reconnect to this one.
const RETURN_LIMIT: Duration = Duration::from_secs(30);

/// The right to send one file, released when dropped.
pub(crate) struct Permits {
    _client: Option<OwnedSemaphorePermit>,
    _server: Option<OwnedSemaphorePermit>,
}

impl TaskContext {
    /// Returns the number of transfers that have a permit of the server.
    pub(crate) fn n_running(&self) -> usize {
        self.limits.max_running.saturating_sub(self.permits.available_permits())
    }

    /// Returns until when a pull waits for a client that was connected to the previous server
    /// process. `None` if the client was offline then, is online now, or that time is over.
    pub(crate) fn expected_until(&self, client: &ClientView) -> Option<DateTime<Utc>> {
        let last = client.record.last_disconnect.as_ref()?;
        let until = self.started_at + RETURN_LIMIT;
        let was_online = last.reason == DisconnectReason::ServerRestart;
        (!client.online && was_online && now() < until).then_some(until)
    }

    /// Returns why a pull without `queue` waits for a client.
    fn why_expected(&self, transfer: &Transfer) -> Option<String> {
        let is_expected = transfer.queue_until == Some(self.started_at + RETURN_LIMIT);
        let client = &transfer.client;
        is_expected.then(|| format!("the server has just started, and {client} was online before"))
    }

    /// Waits until a file that needs `needed` bytes fits on the disk.
    async fn wait_for_space(self: Arc<Self>, needed: u64) {
        loop {
            let space = self.disk.space(Duration::MAX).await;
            let min_free = self.limits.min_free;
            if space.is_ok_and(|space| shortage(space, needed, min_free).is_none()) {
                return;
            }
            self.disk.next_sample().await;
        }
    }
}

impl TransferTask {
    /// Returns the newest session of the client; none while it is disconnected.
    pub(crate) fn session(&self) -> Option<SessionHandle> {
        self.slot.session().borrow().clone()
    }

    /// Resolves when the session of `epoch` is no longer the newest session of the client.
    pub(crate) fn session_changed(&self, epoch: u64) -> impl Future<Output = ()> + use<> {
        let mut newest = self.slot.session();
        async move {
            let has_changed = |newest: &Option<SessionHandle>| {
                newest.as_ref().is_none_or(|session| session.epoch != epoch)
            };
            let _ = newest.wait_for(has_changed).await;
        }
    }

    /// Resolves when the agent no longer sends this upload: the newest session of the client belongs
    /// to another instance of the agent, or to an instance that does not list the upload. A session
    /// that is only lost does not end an upload, because the upload has its own connection.
    pub(crate) fn abandoned(
        &self,
        session: &SessionHandle,
    ) -> impl Future<Output = &'static str> + use<> {
        let mut newest = self.slot.session();
        let revoked_later = self.slot.revoked();
        // The key may have been removed after it admitted the upload.
        let was_revoked = session.why_ended() == Some(EndReason::Revoked);
        let id = self.transfer.id;
        let epoch = session.epoch;
        let instance = session.instance;
        let replaced = async move {
            let is_abandoned = |newest: &Option<SessionHandle>| {
                newest.as_ref().is_some_and(|newest| {
                    newest.instance != instance
                        || epoch < newest.epoch && !newest.active.contains(&id)
                })
            };
            match newest.wait_for(is_abandoned).await {
                Ok(newest) if newest.as_ref().is_some_and(|newest| newest.instance == instance) => {
                    "the agent came back without it"
                }
                _ => "another machine took over the client",
            }
        };
        let revoked = async move {
            if !was_revoked {
                revoked_later.await;
            }
        };
        async move {
            tokio::select! {
                reason = replaced => reason,
                () = revoked => "the key of the client was removed or replaced",
            }
        }
    }

    /// Waits until the client is connected.
    pub(crate) async fn wait_for_session(&mut self) -> Result<SessionHandle, Outcome> {
        if let Some(session) = self.session() {
            return Ok(session);
        }
        self.client_permit = None;
        let since = now();
        loop {
            let deadline = self.client_deadline(since);
            let activity = Activity::Waiting(WaitingFor::Client);
            self.show_until(activity, Some(deadline), self.context.why_expected(&self.transfer));
            let left = (deadline - Utc::now()).to_std().unwrap_or_default();
            let mut newest = self.slot.session();
            let connected = async move {
                match newest.wait_for(Option::is_some).await {
                    Ok(session) => session.clone(),
                    Err(_) => None, // the registry outlives every transfer
                }
            };
            match self.or_cancelled(timeout(left, connected)).await? {
                Ok(Some(session)) => return Ok(session),
                Ok(None) => return Err(Outcome::Stopped),
                Err(_) if self.client_deadline(since) <= now() => {
                    return Err(self.client_gone().await.into());
                }
                Err(_) => {} // a pull has moved the deadline
            }
        }
    }

    /// Returns until when the transfer waits for a client that is disconnected since `since`.
    pub(crate) fn client_deadline(&self, since: DateTime<Utc>) -> DateTime<Utc> {
        self.retry.client_deadline(&self.transfer, since)
    }

    async fn client_gone(&self) -> Problem {
        let client = &self.transfer.client;
        // Optional: only adds a detail to the problem.
        let found = self
            .context
            .clients
            .within(&Scope::Everything)
            .client(client)
            .await
            .unwrap_or_default();
        let last_seen =
            found.map(|found| registry::last_seen(&found, Utc::now())).unwrap_or_default();
        Problem::new(Code::ClientGone, format!("{client} did not return in time. {last_seen}"))
            .hint(format!("check it: curl localhost:8080/clients/{client}"))
    }

    /// Waits for the permit of the client, then for a permit of the server.
    pub(crate) async fn wait_for_permits(
        &mut self,
        session: &SessionHandle,
    ) -> Result<Permits, Outcome> {
        let mut client = self.client_permit.take();
        if client.is_none() {
            let of_client = Arc::clone(&self.slot.send_permit);
            client = self.wait_for_permit(of_client, WaitingFor::OtherFile, session).await?;
        }
        let of_server = Arc::clone(&self.context.permits);
        let server = self.wait_for_permit(of_server, WaitingFor::Permit, session).await?;
        Ok(Permits { _client: client, _server: server })
    }

    /// Waits for a permit, and shows the wait if none is free. Returns none if the client's session
    /// changes first.
    async fn wait_for_permit(
        &mut self,
        permits: Arc<Semaphore>,
        waiting_for: WaitingFor,
        session: &SessionHandle,
    ) -> Result<Option<OwnedSemaphorePermit>, Outcome> {
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            return Ok(Some(permit));
        }
        self.show(Activity::Waiting(waiting_for));
        let session_changed = self.session_changed(session.epoch);
        let permit = async move {
            tokio::select! {
                permit = permits.acquire_owned() => permit.ok(),
                () = session_changed => None,
            }
        };
        self.or_cancelled(permit).await
    }

    /// Counts an interrupted attempt, and pauses before the next one. The pause ends early if the
    /// session changes.
    pub(crate) async fn wait_to_retry(
        &mut self,
        session: &SessionHandle,
        reason: &str,
        progress: bool,
    ) -> Result<(), Outcome> {
        self.log_interrupted(reason);
        let session_is_up = self.session().is_some_and(|newest| newest.epoch == session.epoch);
        let now = Instant::now();
        let pause = self.retry.interrupted(progress, session_is_up, now, fastrand::f64());
        let Some(pause) = pause else {
            let client = &self.transfer.client;
            let detail = format!("{client} was connected, but no bytes came: {reason}.");
            return Err(Problem::new(Code::TransferStalled, detail).into());
        };
        // A failure that breaks an upload often breaks the session too, which is noticed later.
        let session_changed = self.session_changed(session.epoch);
        let pause = async move {
            tokio::select! {
                () = sleep_until(now + pause) => {}
                () = session_changed => {}
            }
        };
        self.or_cancelled(pause).await
    }

    /// Waits until the server has the resource that an attempt lacked. A pull without `queue` and
    /// without received bytes does not wait for space: its caller gets the problem.
    pub(crate) async fn wait_for_resource(&mut self, problem: Problem) -> Result<(), Outcome> {
        let problem = self.with_shortage(problem).await;
        let is_full = problem.code == Code::ServerFull;
        if is_full && self.transfer.queue_until.is_none() && !self.has_bytes() {
            return Err(problem.into());
        }
        self.log_interrupted(&problem.detail);
        if is_full {
            self.return_to_checkpoint().await?;
        }
        let since = self.retry.wait_for_disk(self.transfer.durable(), now());
        let mut pause = self.retry.pause(fastrand::f64());
        loop {
            let deadline = self.retry.disk_deadline(&self.transfer, since, self.has_bytes());
            if deadline <= now() {
                return Err(problem.into());
            }
            let activity = Activity::Waiting(WaitingFor::Disk);
            self.show_until(activity, Some(deadline), Some(problem.detail.clone()));
            let needed = if is_full { self.needed().await } else { 0 };
            let context = Arc::clone(&self.context);
            let available = async move {
                sleep(pause).await;
                if is_full {
                    context.wait_for_space(needed).await;
                }
            };
            let left = (deadline - Utc::now()).to_std().unwrap_or_default();
            if self.or_cancelled(timeout(left, available)).await?.is_ok() {
                return Ok(());
            }
            // A pull may have moved the deadline.
            pause = Duration::ZERO;
        }
    }

    /// Adds a lack of inodes to the problem: such a disk reports the same error as one without
    /// space.
    async fn with_shortage(&self, problem: Problem) -> Problem {
        if problem.code != Code::ServerFull {
            return problem;
        }
        let space = self.context.disk.space(Duration::ZERO).await;
        match space.ok().and_then(|space| shortage(space, 0, 0)) {
            Some(detail) => Problem { detail, ..problem },
            None => problem,
        }
    }

    /// Returns whether the transfer has received bytes, for which it waits.
    fn has_bytes(&self) -> bool {
        self.was_admitted || 0 < self.transfer.durable()
    }

    /// Drops the bytes received after the checkpoint: a partial whose write failed must not be used
    /// any more. The reserved space of the partial is released.
    async fn return_to_checkpoint(&mut self) -> Result<(), Outcome> {
        self.partial = None;
        match self.recover_prefix().await {
            // The next attempt recovers the prefix again.
            Ok(()) | Err(Outcome::Deferred(_)) => {}
            Err(outcome) => return Err(outcome),
        }
        let received = self.received();
        self.view.send_modify(|view| view.bytes_done = received);
        Ok(())
    }

    /// Returns how many bytes the file still needs on the disk; 0 while its size is unknown.
    async fn needed(&self) -> u64 {
        let size = self.view.borrow().source.as_ref().map_or(0, |source| source.size);
        self.stored.unwrap_or(size).saturating_sub(self.allocated().await)
    }
}
