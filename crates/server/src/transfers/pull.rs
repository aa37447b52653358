//! What an operator asks for: joined to what runs already, or begun and put on record.

use std::time::Duration;

use chrono::Utc;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;
use tokio::sync::watch;
use tracing::info;
use uuid::Uuid;

use super::keys::{HeldKey, Keyed};
use super::life::Life;
use super::open::{Handle, Joined};
use super::view::{Stage, View};
use super::{Transfers, now, records_failed};
use crate::registry::{self, ClientView};

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Whose file.
    pub client: ClientId,
    /// Which file; none is the default file.
    pub path: Option<SharedPath>,
    /// Wait this long for a client that is offline.
    pub queue: Option<Duration>,
    /// Do not join a transfer whose source may be open already.
    pub fresh: bool,
    /// Who asks.
    pub requested_by: String,
    /// Names the request in the log.
    pub request_id: Uuid,
    /// What the caller calls this request: one that comes again gets the same transfer.
    pub key: Option<String>,
}

/// The transfer that answers a pull. It is on record.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Which one.
    pub id: TransferId,
    /// It was under way already.
    pub joined: bool,
    /// How it goes.
    pub view: watch::Receiver<View>,
}

impl Transfers {
    /// Joins the transfer that already runs for the same file, or makes one and has it recorded.
    ///
    /// # Errors
    /// Says in full sentences why nothing was started.
    pub async fn pull(&self, pull: Pull) -> Result<Pulled, Problem> {
        let shared = &self.shared;
        if shared.lifecycle.drain().is_cancelled() {
            return Err(stopping());
        }
        let held = match &pull.key {
            None => None,
            Some(key) => match self.keyed(&pull, key).await? {
                Keyed::Found(pulled) => return Ok(pulled),
                Keyed::New(held) => Some(held),
            },
        };
        let (pulled, held) = self.join_or_begin(pull, held).await?;
        if let Some(held) = held {
            self.keep_key(&held, &pulled).await?;
        }
        Ok(pulled)
    }

    /// The transfer, and the key unless that went on record with it.
    async fn join_or_begin(
        &self,
        pull: Pull,
        held: Option<HeldKey>,
    ) -> Result<(Pulled, Option<HeldKey>), Problem> {
        let shared = &self.shared;
        let client = shared.clients.known(&pull.client, records_failed).await?;
        let joined = shared.open.join(&pull.client, pull.path.as_ref(), pull.fresh);
        if let Some(handle) = joined {
            return Ok((joined_to(&handle, &pull.requested_by, pull.request_id).await?, held));
        }
        if !client.online && pull.queue.is_none() {
            return Err(offline(&client));
        }
        if pull.queue.is_none() {
            shared.check_space().await.map_err(nothing_started)?;
        }
        let requested_by = pull.requested_by.clone();
        let mut transfer = Transfer::new(pull.client, pull.path, pull.requested_by, now());
        transfer.queue_until = pull.queue.map(|queue| transfer.created_at + queue);
        let (mut life, handle) = Life::begin(shared, transfer);
        let max_open = shared.limits.max_running + shared.limits.max_waiting;
        match shared.open.join_or_insert(handle, pull.fresh, max_open)? {
            Joined::Other(handle) => {
                Ok((joined_to(&handle, &requested_by, pull.request_id).await?, held))
            }
            Joined::Inserted(handle) => {
                // It keeps the key from others even if this caller hangs up meanwhile.
                life.key = held;
                life.request_id = pull.request_id;
                shared.lifecycle.spawn(life.run());
                Ok((recorded(&handle, false).await?, None))
            }
        }
    }
}

/// Joins a transfer that is under way, once it is on record.
async fn joined_to(
    handle: &Handle,
    requested_by: &str,
    request_id: Uuid,
) -> Result<Pulled, Problem> {
    let pulled = recorded(handle, true).await?;
    let Handle { id, client, path, .. } = handle;
    let path = path.as_ref().map(|path| path.as_str());
    info!(
        event = "transfer.joined", transfer = %id, %client, path, requested_by, %request_id,
        "transfer joined"
    );
    Ok(pulled)
}

/// Waits until a transfer is on record: earlier nobody may be told of it.
async fn recorded(handle: &Handle, joined: bool) -> Result<Pulled, Problem> {
    let mut view = handle.view.clone();
    // A task that ended before its record was made leaves its view as it was.
    let _ = view.wait_for(|view| view.stage != Stage::Recording).await;
    let seen = view.borrow().clone();
    let records_failed =
        |problem: &&Problem| matches!(problem.code, Code::RecordsFailed | Code::ServerFull);
    let never_recorded = seen.transfer.attempt == 0;
    match seen.transfer.problem().filter(records_failed) {
        Some(problem) if never_recorded => Err(problem.clone()),
        _ if seen.stage == Stage::Recording => Err(stopping()),
        _ => Ok(Pulled { id: handle.id, joined, view }),
    }
}

fn nothing_started(problem: Problem) -> Problem {
    let detail = format!("{} Nothing was started.", problem.detail);
    Problem { detail, ..problem }
}

fn stopping() -> Problem {
    Problem::new(Code::ServerStopping, "The server is restarting; try again in 10 s.")
        .hint("is it back: curl localhost:8080/readyz")
}

fn offline(client: &ClientView) -> Problem {
    let id = &client.record.id;
    let detail = format!("{id} is offline. {}", registry::last_seen(client, Utc::now()));
    Problem::new(Code::ClientOffline, detail)
}
