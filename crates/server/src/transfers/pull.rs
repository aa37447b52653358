//! A pull: joins a transfer of the same file, or creates one and records it.

mod problems;

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::audit::AuditAction;
use filepull_core::digest::Digest;
use filepull_core::human;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::pull_mode::PullMode;
use filepull_core::transfer::Transfer;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::info;

use super::active::{JoinResult, TaskHandle};
use super::task::TransferTask;
use super::view::{Activity, View};
use super::{Command, Transfers, now, records_failed};
use crate::records::{Actor, AuditEntry, RequestKey};
use crate::scope::Scope;
use problems::{nothing_started, offline, pending, stopping};

/// How often a pull is repeated when its transfer was discarded in favour of another request.
const MAX_TRIES: u32 = 3;

/// A request for a file.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    /// The client that has the file.
    pub client: ClientId,
    /// The path of the file; none is the default file.
    pub path: Option<SharedPath>,
    /// How long the transfer waits for a client that is offline; none if it does not wait.
    pub queue: Option<Duration>,
    /// How much of the file is sent, and which transfers the pull may join.
    pub mode: PullMode,
    /// The clients that the caller may see.
    pub scope: Scope,
    /// The caller, for the record and the audit.
    pub requested_by: Actor,
    /// The idempotency key: a repeated request gets the original transfer.
    pub key: Option<String>,
}

impl Pull {
    /// Returns the idempotency key with the digest of this request, if the pull has a key.
    fn request_key(&self) -> Option<RequestKey> {
        let key = self.key.clone()?;
        Some(RequestKey { key, request: self.digest() })
    }

    /// Returns the digest of what the pull requests, without its caller.
    fn digest(&self) -> Digest {
        let Self { client, path, queue, mode, scope: _, requested_by: _, key: _ } = self;
        let path = path.as_ref().map(|path| path.as_str());
        let seconds = queue.map(|queue| queue.as_secs());
        Digest::of(format!("{:?}", (client.as_str(), path, seconds, mode)).as_bytes())
    }

    /// Returns the entry for the audit, without the transfer that the pull leads to.
    fn audit(&self, action: AuditAction) -> AuditEntry {
        let Self { client, path, queue, mode, scope: _, requested_by, key } = self;
        let seconds = queue.map(|queue| queue.as_secs());
        requested_by
            .did(action, client.as_str())
            .with("path", path.as_ref().map(|path| path.as_str()))
            .with("queue_seconds", seconds)
            .with("fresh", *mode == PullMode::All)
            .with("if_changed", *mode == PullMode::IfChanged)
            .with("has_key", key.is_some())
    }
}

/// The transfer of a pull. It is on record.
#[derive(Clone, Debug)]
pub(crate) struct PullResult {
    /// The id of the transfer.
    pub id: TransferId,
    /// The transfer was already active.
    pub joined: bool,
    /// The transfer, with every change.
    pub view: watch::Receiver<View>,
}

impl Transfers {
    /// Joins the active transfer of the same file, or creates one and waits for its record.
    ///
    /// The audit record of the pull is durable when this returns.
    ///
    /// # Errors
    /// The problem states why nothing was started. Without its audit record a pull fails.
    pub(crate) async fn pull(&self, pull: Pull) -> Result<PullResult, Problem> {
        // In a box, which is gone when a caller waits for its transfer.
        let rejected = match Box::pin(self.try_to_pull(&pull)).await {
            Ok(pulled) => return Ok(pulled),
            Err(problem) => problem,
        };
        if rejected.code == Code::RecordsFailed {
            return Err(rejected); // the audit fails too
        }
        let entry = pull.audit(AuditAction::TransferRejected).with("code", rejected.code.as_str());
        self.audit(entry).await?;
        Err(rejected)
    }

    async fn try_to_pull(&self, pull: &Pull) -> Result<PullResult, Problem> {
        let context = &self.context;
        if context.lifecycle.drain().is_cancelled() {
            return Err(stopping());
        }
        // Before the key, which may lead to a transfer from when the caller's scope was larger.
        context.clients.within(&pull.scope).check(&pull.client, records_failed).await?;
        let key = pull.request_key();
        for _ in 0..MAX_TRIES {
            if let Some(key) = &key
                && let Some(pulled) = self.keyed(key).await?
            {
                self.audit(joined_entry(pull, pulled.id)).await?;
                return Ok(pulled);
            }
            if let Some(pulled) = self.join_or_begin(pull, key.as_ref()).await? {
                return Ok(pulled);
            }
        }
        Err(Problem::new(Code::Internal, "The transfer ended before it was on record."))
    }

    /// Returns the transfer; none if it was discarded, because the key of its request leads to
    /// another one.
    async fn join_or_begin(
        &self,
        pull: &Pull,
        key: Option<&RequestKey>,
    ) -> Result<Option<PullResult>, Problem> {
        let context = &self.context;
        loop {
            let n_revocations = context.registry.n_revocations();
            // In a box: the future of each waiting caller would hold a client.
            let handle = match Box::pin(self.find_or_insert(pull, key)).await? {
                JoinResult::Other(handle) => handle,
                JoinResult::Inserted(handle) => {
                    let recorded = self.recorded(&handle, false).await?;
                    if context.registry.n_revocations() != n_revocations {
                        Box::pin(self.end_if_forgotten(&handle.client)).await?;
                    }
                    return Ok(recorded);
                }
            };
            match self.extend(&handle, pull.queue).await? {
                ExtendResult::Yes => return self.joined(&handle, key, pull).await,
                ExtendResult::Ended => {}
            }
        }
    }

    /// Returns the active transfer that the pull joins, or inserts a new one and starts its task.
    async fn find_or_insert(
        &self,
        pull: &Pull,
        key: Option<&RequestKey>,
    ) -> Result<JoinResult, Problem> {
        let context = &self.context;
        let client =
            context.clients.within(&pull.scope).known(&pull.client, records_failed).await?;
        if client.record.is_pending() {
            return Err(pending(&client));
        }
        let joined = context.active.join(&pull.client, pull.path.as_ref(), pull.mode);
        if let Some(handle) = joined {
            return Ok(JoinResult::Other(handle));
        }
        let expected_until = context.expected_until(&client);
        if !client.online && pull.queue.is_none() && expected_until.is_none() {
            return Err(offline(&client));
        }
        if pull.queue.is_none() {
            // The size of the file is not known yet.
            context.check_space_for(0).await.map_err(nothing_started)?;
        }
        self.join_or_insert(pull, key, expected_until)
    }

    /// Inserts a new transfer and starts its task, unless another caller was faster. Not `async`:
    /// the future of each waiting caller would hold a task.
    fn join_or_insert(
        &self,
        pull: &Pull,
        key: Option<&RequestKey>,
        expected_until: Option<DateTime<Utc>>,
    ) -> Result<JoinResult, Problem> {
        let context = &self.context;
        let max_active = context.limits.max_running + context.limits.max_waiting;
        let max_waiting = context.limits.max_waiting_per_client;
        let Pull { client, path, mode, requested_by, .. } = pull.clone();
        let created = Transfer::new(client, path, requested_by.name, now());
        let mut transfer = Transfer { mode, ..created };
        let queue_until = pull.queue.map(|queue| transfer.created_at + queue);
        transfer.queue_until = queue_until.or(expected_until);
        let (mut task, handle) = TransferTask::new(context, transfer);
        let result = context.active.join_or_insert(&mut task, handle, max_active, max_waiting)?;
        if let JoinResult::Inserted(_) = &result {
            // The key is recorded with the transfer, even if this caller disconnects.
            task.key = key.cloned();
            task.request_id = pull.requested_by.request_id.unwrap_or_default();
            task.audit = Some(requested_entry(pull, task.transfer.id));
            task.spawn();
        }
        Ok(result)
    }

    /// Ends a transfer that began while its client was forgotten.
    async fn end_if_forgotten(&self, client: &ClientId) -> Result<(), Problem> {
        let known = self.context.clients.everything().known(client, records_failed).await;
        if let Err(problem) = known {
            self.end_all_of(client, &format!("{client} was forgotten.")).await;
            return Err(problem);
        }
        Ok(())
    }

    /// Moves the deadline of a transfer that a pull with `queue` joins. Returns once the deadline
    /// is on record.
    async fn extend(
        &self,
        handle: &TaskHandle,
        queue: Option<Duration>,
    ) -> Result<ExtendResult, Problem> {
        let Some(queue) = queue else { return Ok(ExtendResult::Yes) };
        let (done, extended) = oneshot::channel();
        let command = Command::Extend { until: now() + queue, done };
        let answered = async {
            handle.commands.send(command).await.ok()?;
            extended.await.ok()
        };
        match timeout(EXTEND_LIMIT, answered).await {
            Ok(Some(saved)) => saved.map(|()| ExtendResult::Yes),
            Ok(None) => {
                // The transfer is about to end. An ended transfer cannot be joined.
                let mut view = handle.view.clone();
                let ended = view.wait_for(|view| view.transfer.is_final());
                match timeout(EXTEND_LIMIT, ended).await {
                    Ok(_) => Ok(ExtendResult::Ended),
                    Err(_) => Err(self.not_extended(handle.id)),
                }
            }
            Err(_) => Err(self.not_extended(handle.id)),
        }
    }

    /// Returns why a deadline is not on record in time.
    fn not_extended(&self, id: TransferId) -> Problem {
        if self.context.records_fail.load(Ordering::Relaxed) {
            let detail = "The server could not read or write its records.";
            return Problem::new(Code::RecordsFailed, detail);
        }
        let limit = human::span(EXTEND_LIMIT);
        let detail = format!("Transfer {id} could not record the new deadline within {limit}.");
        Problem::new(Code::ServerBusy, detail)
    }

    /// Joins an active transfer, once it is on record.
    async fn joined(
        &self,
        handle: &TaskHandle,
        key: Option<&RequestKey>,
        pull: &Pull,
    ) -> Result<Option<PullResult>, Problem> {
        let pulled = match (self.recorded(handle, true).await?, key) {
            (None, _) => return Ok(None),
            (Some(pulled), None) => {
                self.audit(joined_entry(pull, pulled.id)).await?;
                pulled
            }
            (Some(pulled), Some(key)) => {
                let entry = joined_entry(pull, pulled.id);
                Box::pin(self.keep_key(key, pulled, entry)).await?
            }
        };
        let TaskHandle { client, path, .. } = handle;
        let Actor { name: requested_by, request_id, .. } = &pull.requested_by;
        let request_id = request_id.unwrap_or_default();
        let path = path.as_ref().map(|path| path.as_str());
        info!(
            event = "transfer.joined", transfer = %pulled.id, %client, path, requested_by,
            %request_id, "transfer joined"
        );
        Ok(Some(pulled))
    }

    /// Waits until a transfer is on record: no caller may learn of it earlier. Returns none if the
    /// transfer was discarded.
    async fn recorded(
        &self,
        handle: &TaskHandle,
        joined: bool,
    ) -> Result<Option<PullResult>, Problem> {
        let mut view = handle.view.clone();
        // A task that ended before its record was saved leaves its view unchanged.
        let _ = view.wait_for(|view| view.activity != Activity::Recording).await;
        let seen = view.borrow().clone();
        let records_failed =
            |problem: &&Problem| matches!(problem.code, Code::RecordsFailed | Code::ServerFull);
        let never_recorded = seen.transfer.attempt == 0;
        match seen.transfer.problem().filter(records_failed) {
            Some(problem) if never_recorded => Err(problem.clone()),
            _ if seen.activity != Activity::Recording => {
                Ok(Some(PullResult { id: handle.id, joined, view }))
            }
            _ if self.is_stopping() => Err(stopping()),
            _ => Ok(None),
        }
    }
}

fn requested_entry(pull: &Pull, transfer: TransferId) -> AuditEntry {
    pull.audit(AuditAction::TransferRequested).with("transfer", transfer.to_string())
}

fn joined_entry(pull: &Pull, transfer: TransferId) -> AuditEntry {
    pull.audit(AuditAction::TransferJoined).with("transfer", transfer.to_string())
}

/// Whether a joined transfer waits until the deadline of the pull.
enum ExtendResult {
    Yes,
    /// The transfer ended meanwhile.
    Ended,
}

/// Maximum time until a deadline is on record, even if the transfer waits for a slow disk.
const EXTEND_LIMIT: Duration = Duration::from_secs(2);
