//! What a transfer waits for: its client's line, then its turn.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use filepull_core::problem::{Code, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::life::{Ending, Life};
use super::view::{Stage, WaitingFor};
use super::{Shared, now};
use crate::registry::{self, Session};

/// The right to send one file, given back when dropped.
pub(super) struct Turn {
    _client: Option<OwnedSemaphorePermit>,
    _server: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// How many transfers have their turn now.
    pub(super) fn n_running(&self) -> usize {
        self.limits.max_running.saturating_sub(self.turns.available_permits())
    }
}

impl Life {
    /// Waits until the client has a line.
    pub(super) async fn online(&mut self) -> Result<Session, Ending> {
        let mut line = self.berth.line();
        if let Some(session) = line.borrow_and_update().clone() {
            return Ok(session);
        }
        let deadline = self.away_until();
        self.view.send_modify(|view| view.expires_at = Some(deadline));
        self.show(Stage::Waiting(WaitingFor::Client));
        let left = (deadline - Utc::now()).to_std().unwrap_or_default();
        let back = async move {
            match line.wait_for(Option::is_some).await {
                Ok(session) => session.clone(),
                Err(_) => None, // the registry outlives every transfer
            }
        };
        let back = self.unless_ended(timeout(left, back)).await?;
        self.view.send_modify(|view| view.expires_at = None);
        match back {
            Ok(Some(session)) => Ok(session),
            Ok(None) => Err(Ending::Left),
            Err(_) => Err(self.client_gone().await.into()),
        }
    }

    /// A pull that never began waits as long as it was told to; one that did waits for the client
    /// to come back.
    fn away_until(&self) -> DateTime<Utc> {
        let resume_until = now() + self.shared.limits.resume_within;
        match (self.transfer.started_at, self.transfer.queue_until) {
            (None, Some(queue_until)) => queue_until,
            (Some(_), Some(queue_until)) => queue_until.max(resume_until),
            (_, None) => resume_until,
        }
    }

    async fn client_gone(&self) -> Problem {
        let client = &self.transfer.client;
        // Only adds to what is said: it may be missing.
        let seen = self.shared.clients.client(client).await.unwrap_or_default();
        let seen = seen.map(|seen| registry::last_seen(&seen, Utc::now()));
        let seen = seen.unwrap_or_default();
        Problem::new(Code::ClientGone, format!("{client} did not return in time. {seen}"))
            .hint(format!("look at it: curl localhost:8080/clients/{client}"))
    }

    /// Takes the client's turn, then one of the server's.
    pub(super) async fn turn(&mut self, session: &Session) -> Result<Turn, Ending> {
        let (mine, all) = (Arc::clone(&self.berth.turn), Arc::clone(&self.shared.turns));
        let client = self.permit(mine, WaitingFor::OtherFile, session).await?;
        let server = self.permit(all, WaitingFor::Turn, session).await?;
        Ok(Turn { _client: client, _server: server })
    }

    /// Takes a permit, and shows what it waits for if none is free. None if the client's line
    /// changed first.
    async fn permit(
        &mut self,
        turns: Arc<Semaphore>,
        waiting_for: WaitingFor,
        session: &Session,
    ) -> Result<Option<OwnedSemaphorePermit>, Ending> {
        if let Ok(permit) = Arc::clone(&turns).try_acquire_owned() {
            return Ok(Some(permit));
        }
        self.show(Stage::Waiting(waiting_for));
        let left = self.line_changed(session.epoch);
        let permit = async move {
            tokio::select! {
                permit = turns.acquire_owned() => permit.ok(),
                () = left => None,
            }
        };
        self.unless_ended(permit).await
    }

    /// Resolves when the client's line is no longer the one of `epoch`.
    pub(super) fn line_changed(&self, epoch: u64) -> impl Future<Output = ()> + use<> {
        let mut line = self.berth.line();
        async move {
            let changed =
                |line: &Option<Session>| line.as_ref().is_none_or(|line| line.epoch != epoch);
            let _ = line.wait_for(changed).await;
        }
    }

    pub(super) fn current_line(&self) -> Option<Session> {
        self.berth.line().borrow().clone()
    }
}
