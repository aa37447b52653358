//! What a transfer waits for: its client's line, then its turn.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

use super::task::{Ending, TransferTask};
use super::view::{Activity, WaitingFor};
use super::{TaskContext, now};
use crate::client::DisconnectReason;
use crate::registry::{self, ClientView, SessionHandle};

/// How long the clients of the previous server process have to reconnect to this one.
const RETURN_LIMIT: Duration = Duration::from_secs(30);

/// The right to send one file, given back when dropped.
pub(super) struct Permits {
    _client: Option<OwnedSemaphorePermit>,
    _server: Option<OwnedSemaphorePermit>,
}

impl TaskContext {
    /// How many transfers have their turn now.
    pub(super) fn n_running(&self) -> usize {
        self.limits.max_running.saturating_sub(self.turns.available_permits())
    }

    /// Until when a client that the last server had connected may return before a pull of it is
    /// rejected; `None` if it was offline, or that time is over.
    pub(super) fn expected_until(&self, client: &ClientView) -> Option<DateTime<Utc>> {
        let last = client.record.last_disconnect.as_ref()?;
        let until = self.started_at + RETURN_LIMIT;
        let was_online = last.reason == DisconnectReason::ServerRestart;
        (!client.online && was_online && now() < until).then_some(until)
    }

    /// Why a pull waits for a client although it was not queued.
    fn why_expected(&self, transfer: &Transfer) -> Option<String> {
        let is_expected = transfer.queue_until == Some(self.started_at + RETURN_LIMIT);
        let client = &transfer.client;
        is_expected.then(|| format!("the server has just started, and {client} was online before"))
    }
}

impl TransferTask {
    /// Waits until the client has a line.
    pub(super) async fn wait_for_session(&mut self) -> Result<SessionHandle, Ending> {
        if let Some(session) = self.current_line() {
            return Ok(session);
        }
        let since = now();
        loop {
            let deadline = self.away_until(since);
            let stage = Activity::Waiting(WaitingFor::Client);
            self.show_until(stage, Some(deadline), self.shared.why_expected(&self.transfer));
            let left = (deadline - Utc::now()).to_std().unwrap_or_default();
            let mut line = self.berth.session();
            let back = async move {
                match line.wait_for(Option::is_some).await {
                    Ok(session) => session.clone(),
                    Err(_) => None, // the registry outlives every transfer
                }
            };
            match self.or_cancelled(timeout(left, back)).await? {
                Ok(Some(session)) => return Ok(session),
                Ok(None) => return Err(Ending::Left),
                Err(_) if self.away_until(since) <= now() => {
                    return Err(self.client_gone().await.into());
                }
                Err(_) => {} // the deadline is later by now
            }
        }
    }

    /// A pull that never began waits as long as it was told to; one that did waits for the client
    /// to come back.
    pub(super) fn away_until(&self, since: DateTime<Utc>) -> DateTime<Utc> {
        let resume_until = since + self.shared.limits.resume_within;
        match (self.transfer.started_at, self.transfer.queue_until) {
            (None, Some(queue_until)) => queue_until,
            (Some(_), Some(queue_until)) => queue_until.max(resume_until),
            (_, None) => resume_until,
        }
    }

    async fn client_gone(&self) -> Problem {
        let client = &self.transfer.client;
        // Optional: only adds a detail to the problem.
        let seen = self.shared.clients.client(client).await.unwrap_or_default();
        let seen = seen.map(|seen| registry::last_seen(&seen, Utc::now()));
        let seen = seen.unwrap_or_default();
        Problem::new(Code::ClientGone, format!("{client} did not return in time. {seen}"))
            .hint(format!("look at it: curl localhost:8080/clients/{client}"))
    }

    /// Takes the client's turn, then one of the server's.
    pub(super) async fn turn(&mut self, session: &SessionHandle) -> Result<Permits, Ending> {
        let (mine, all) = (Arc::clone(&self.berth.send_permit), Arc::clone(&self.shared.turns));
        let client = self.permit(mine, WaitingFor::OtherFile, session).await?;
        let server = self.permit(all, WaitingFor::Turn, session).await?;
        Ok(Permits { _client: client, _server: server })
    }

    /// Takes a permit, and shows what it waits for if none is free. None if the client's line
    /// changed first.
    async fn permit(
        &mut self,
        turns: Arc<Semaphore>,
        waiting_for: WaitingFor,
        session: &SessionHandle,
    ) -> Result<Option<OwnedSemaphorePermit>, Ending> {
        if let Ok(permit) = Arc::clone(&turns).try_acquire_owned() {
            return Ok(Some(permit));
        }
        self.show(Activity::Waiting(waiting_for));
        let left = self.line_changed(session.epoch);
        let permit = async move {
            tokio::select! {
                permit = turns.acquire_owned() => permit.ok(),
                () = left => None,
            }
        };
        self.or_cancelled(permit).await
    }

    /// Resolves when the client's line is no longer the one of `epoch`.
    pub(super) fn line_changed(&self, epoch: u64) -> impl Future<Output = ()> + use<> {
        let mut line = self.berth.session();
        async move {
            let changed =
                |line: &Option<SessionHandle>| line.as_ref().is_none_or(|line| line.epoch != epoch);
            let _ = line.wait_for(changed).await;
        }
    }

    pub(super) fn current_line(&self) -> Option<SessionHandle> {
        self.berth.session().borrow().clone()
    }
}
