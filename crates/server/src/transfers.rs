//! Makes, joins, orders and ends transfers: the only writer of their state.
//!
//! Each unfinished transfer is one task (`life`) that owns it; others see its [`View`] and send
//! it asks. The registry, the records and the store meet here and nowhere else.

mod attempt;
mod effects;
mod life;
mod open;
mod recover;
mod upload;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use filepull_core::human;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Verified;
use filepull_core::source::Source;
use filepull_core::transfer::Transfer;
use filepull_process::Lifecycle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tracing::error;
use uuid::Uuid;

use crate::receive::Pieces;
use crate::records::{Records, RecordsError, TransferFilter};
use crate::registry::{self, Registry};
use crate::store::{Store, StoreError};
use life::Life;
use open::{Handle, Joined, Open};
pub use view::{Stage, State, View, WaitingFor};

/// The bounds that transfers keep to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Transfers at once.
    pub max_running: usize,
    /// Transfers in line.
    pub max_waiting: usize,
    /// The largest file, in bytes.
    pub max_file_size: u64,
    /// Bytes that stay free on the server's disk.
    pub min_free: u64,
    /// An upload that brings no byte for this long has stalled.
    pub stall_timeout: Duration,
    /// How long a client may be away before its transfer fails.
    pub resume_within: Duration,
    /// Bytes are made durable this often while they come.
    pub checkpoint_every: Duration,
}

/// A handle on all transfers.
#[derive(Clone, Debug)]
pub struct Transfers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    records: Records,
    registry: Registry,
    store: Store,
    lifecycle: Lifecycle,
    limits: Limits,
    open: Open,
    /// A permit is taken before the order is sent: it bounds what may be under way at once.
    turns: Arc<Semaphore>,
}

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

/// How many transfers are unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Asked for, or being received.
    pub running: usize,
    /// In line, or waiting for their client.
    pub waiting: usize,
}

/// A page of transfers, newest first.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The transfers.
    pub items: Vec<View>,
    /// Where the next page begins, if there is one.
    pub next_cursor: Option<String>,
    /// How many there are on all pages.
    pub total: u64,
}

/// What an agent said about an order.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The file is open.
    Accepted(Source),
    /// It cannot be sent.
    Refused(Problem),
    /// It could not be sent this time.
    TryAgain(String),
}

/// One attempt, as it arrives from an agent.
pub struct Upload {
    /// The order it answers.
    pub attempt: u32,
    /// The order's token.
    pub token: Uuid,
    /// Where its bytes begin.
    pub offset: u64,
    /// The file as the agent opened it.
    pub source: Source,
    /// The bytes.
    pub pieces: Pieces,
    /// What the agent is told.
    pub replies: mpsc::Sender<Reply>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upload(attempt {} from {})", self.attempt, self.offset)
    }
}

/// What an agent is told about its upload.
#[derive(Clone, Debug)]
pub enum Reply {
    /// So much has arrived.
    Ack {
        /// Received.
        received: u64,
        /// Safe from a power cut.
        durable: u64,
    },
    /// The file is published.
    Stored {
        /// Under this name.
        name: String,
        /// With this size and digest.
        proof: Verified,
    },
    /// The attempt is over.
    Refused {
        /// Why.
        problem: Problem,
        /// Where the server stands, if the upload began elsewhere.
        expected_offset: Option<u64>,
    },
}

/// What a transfer's task is asked to do.
#[derive(Debug)]
enum Ask {
    Answer { attempt: u32, answer: Answer },
    Upload(Box<Upload>),
    Cancel(Problem),
}

/// Asks are few and small; one that finds the queue full is dropped, as a lost message would be.
const ASKS_LEN: usize = 16;

impl Transfers {
    /// Takes up the transfers that an earlier process left unfinished, and sweeps partials that
    /// belong to none of them.
    ///
    /// # Errors
    /// The records cannot be read or the disk failed.
    pub async fn start(
        records: Records,
        registry: Registry,
        store: Store,
        lifecycle: Lifecycle,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let unfinished = records.unfinished().await?;
        let wanted: std::collections::HashSet<String> =
            unfinished.iter().map(|transfer| transfer.id.to_string()).collect();
        let sweeper = store.clone();
        let is_wanted = move |name: &str| name.get(..36).is_some_and(|id| wanted.contains(id));
        tokio::task::spawn_blocking(move || sweeper.sweep(is_wanted)).await??;
        let turns = Arc::new(Semaphore::new(limits.max_running));
        let open = Open::default();
        let shared = Arc::new(Shared { records, registry, store, lifecycle, limits, open, turns });
        let transfers = Self { shared };
        for transfer in unfinished {
            let (life, handle) = Life::resume(&transfers.shared, transfer);
            transfers.shared.open.insert(handle);
            transfers.shared.lifecycle.spawn(life.run());
        }
        Ok(transfers)
    }

    /// Joins the transfer that already runs for the same file, or makes one and has it recorded.
    ///
    /// # Errors
    /// Says in full sentences why nothing was started.
    pub async fn pull(&self, pull: Pull) -> Result<Pulled, Problem> {
        let shared = &self.shared;
        if shared.lifecycle.drain().is_cancelled() {
            let detail = "The server is restarting; try again in 10 s.";
            return Err(Problem::new(Code::ServerStopping, detail));
        }
        let client = shared.registry.known(&pull.client)?;
        let joined = shared.open.join(&pull.client, pull.path.as_ref(), pull.fresh);
        if let Some(handle) = joined {
            return recorded(&handle, true).await;
        }
        if !client.online && pull.queue.is_none() {
            return Err(offline(&client));
        }
        self.check_space().await?;
        let mut transfer = Transfer::new(pull.client, pull.path, pull.requested_by, now());
        transfer.queue_until = pull.queue.map(|queue| transfer.created_at + queue);
        let (life, handle) = Life::begin(shared, transfer);
        let max_open = shared.limits.max_running + shared.limits.max_waiting;
        match shared.open.join_or_insert(handle, pull.fresh, max_open)? {
            Joined::Other(handle) => recorded(&handle, true).await,
            Joined::Inserted(handle) => {
                shared.lifecycle.spawn(life.run());
                recorded(&handle, false).await
            }
        }
    }

    async fn check_space(&self) -> Result<(), Problem> {
        let (store, min_free) = (self.shared.store.clone(), self.shared.limits.min_free);
        let free = tokio::task::spawn_blocking(move || store.free()).await;
        match free {
            Ok(Ok(free)) if free < min_free => {
                let (free, min_free) = (human::size(free), human::size(min_free));
                let detail = format!(
                    "The server has {free} free; {min_free} must stay free. Nothing was started."
                );
                Err(Problem::new(Code::ServerFull, detail))
            }
            // A file system that does not tell will tell when the bytes come.
            _ => Ok(()),
        }
    }

    /// One transfer, unfinished or on record.
    ///
    /// # Errors
    /// There is none with this id, or the records cannot be read.
    pub async fn find(&self, id: TransferId) -> Result<View, Problem> {
        if let Some(view) = self.watch(id) {
            return Ok(view.borrow().clone());
        }
        let found = self.shared.records.transfer(id).await.map_err(|e| records_failed(&e))?;
        let unknown = || Problem::new(Code::TransferUnknown, format!("No transfer {id} is known."));
        found.map(View::new).ok_or_else(unknown)
    }

    /// Shows an unfinished transfer, and every change of it.
    pub fn watch(&self, id: TransferId) -> Option<watch::Receiver<View>> {
        self.shared.open.get(id).map(|handle| handle.view)
    }

    /// One transfer, once it is final or `limit` is over.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn wait(&self, id: TransferId, limit: Duration) -> Result<View, Problem> {
        match self.watch(id) {
            None => self.find(id).await,
            Some(mut view) => {
                // Time being up is no error: the caller is shown how far it is.
                let _ = timeout(limit, view.wait_for(|view| view.transfer.is_final())).await;
                Ok(view.borrow().clone())
            }
        }
    }

    /// A page of transfers; those that are unfinished as they are right now.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn list(&self, filter: &TransferFilter) -> Result<ListPage, Problem> {
        let page = self.shared.records.transfers(filter).await.map_err(|e| records_failed(&e))?;
        let live = |transfer: Transfer| match self.watch(transfer.id) {
            Some(view) => view.borrow().clone(),
            None => View::new(transfer),
        };
        let items = page.items.into_iter().map(live).collect();
        Ok(ListPage { items, next_cursor: page.next_cursor, total: page.total })
    }

    /// Cancels a transfer. One that is already final stays as it is.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn cancel(&self, id: TransferId, by: &str) -> Result<View, Problem> {
        if let Some(mut handle) = self.shared.open.get(id) {
            let at = Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
            let detail = format!("Cancelled by {by} at {at}.");
            // A closed queue means that it ended meanwhile.
            let _ = handle.asks.send(Ask::Cancel(Problem::new(Code::Cancelled, detail))).await;
            let _ = handle.view.wait_for(|view| view.transfer.is_final()).await;
            let view = handle.view.borrow().clone();
            return Ok(view);
        }
        self.find(id).await
    }

    /// The client's unfinished transfer; of several the one that runs.
    pub fn current(&self, client: &ClientId) -> Option<View> {
        let views = self.shared.open.views_of(client);
        views.into_iter().min_by_key(|view| view.state() != State::Running)
    }

    /// Where a transfer that waits for its turn stands, from 1.
    pub fn place_in_line(&self, id: TransferId) -> Option<usize> {
        self.shared.open.place_in_line(id)
    }

    /// How many transfers are unfinished.
    pub fn counts(&self) -> Counts {
        self.shared.open.counts()
    }

    /// The server takes no new transfers: it is about to end.
    pub fn is_stopping(&self) -> bool {
        self.shared.lifecycle.drain().is_cancelled()
    }

    /// The bounds that transfers keep to.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Where a finished download lies.
    pub fn download_path(&self, transfer: &Transfer) -> Option<PathBuf> {
        let download = transfer.download()?;
        Some(self.shared.store.download_path(&transfer.client, &download.name))
    }

    /// Takes what an agent said about an order; news of a finished transfer is ignored.
    pub fn answer(&self, id: TransferId, attempt: u32, answer: Answer) {
        if let Some(handle) = self.shared.open.get(id) {
            let _ = handle.asks.try_send(Ask::Answer { attempt, answer });
        }
    }

    /// Hands an upload to the transfer it is for. One that is for none is told so.
    pub fn upload(&self, id: TransferId, upload: Upload) {
        let replies = upload.replies.clone();
        let handle = self.shared.open.get(id);
        let handed = handle
            .is_some_and(|handle| handle.asks.try_send(Ask::Upload(Box::new(upload))).is_ok());
        if !handed {
            refuse(
                &replies,
                Problem::new(Code::TransferUnknown, format!("no transfer {id}")),
                None,
            );
        }
    }
}

/// Waits until a transfer is on record: earlier nobody may be told of it.
async fn recorded(handle: &Handle, joined: bool) -> Result<Pulled, Problem> {
    let mut view = handle.view.clone();
    // A task that ended before its record was made leaves its view as it was.
    let _ = view.wait_for(|view| view.stage != Stage::Recording).await;
    let seen = view.borrow().clone();
    let never_recorded = seen.transfer.attempt == 0
        && seen.transfer.problem().is_some_and(|problem| problem.code == Code::StorageFailed);
    match seen.transfer.problem() {
        Some(problem) if never_recorded => Err(problem.clone()),
        _ if seen.stage == Stage::Recording => {
            Err(Problem::new(Code::ServerStopping, "The server is restarting; try again in 10 s."))
        }
        _ => Ok(Pulled { id: handle.id, joined, view }),
    }
}

fn offline(client: &registry::ClientView) -> Problem {
    let id = &client.record.id;
    let detail = format!("{id} is offline. {}", registry::last_seen(client, Utc::now()));
    Problem::new(Code::ClientOffline, detail)
}

/// Times as the records keep them: to the millisecond.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

/// How long a transfer took from its first order to its end, in seconds.
fn seconds_taken(transfer: &Transfer) -> f64 {
    let (Some(started), Some(finished)) = (transfer.started_at, transfer.finished_at) else {
        return 0.0;
    };
    (finished - started).to_std().unwrap_or_default().as_secs_f64()
}

fn refuse(replies: &mpsc::Sender<Reply>, problem: Problem, expected_offset: Option<u64>) {
    // An agent that has hung up needs no answer.
    let _ = replies.try_send(Reply::Refused { problem, expected_offset });
}

fn records_failed(error: &RecordsError) -> Problem {
    error!(event = "records.failed", error = %chain(error), "the records failed");
    Problem::new(Code::StorageFailed, "The server could not read or write its records.")
}

fn store_failed(error: &StoreError) -> Problem {
    error!(event = "store.failed", error = %chain(error), "the disk failed");
    if error.is_full() {
        Problem::new(Code::ServerFull, "The server's disk is full.")
    } else {
        Problem::new(Code::StorageFailed, "The server could not write the file to its disk.")
    }
}

/// An error and all its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}
