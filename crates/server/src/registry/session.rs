//! One live line, as the rest of the server holds it: a bounded outbox and the pulse.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::id::TransferId;
use filepull_core::path::SharedPath;
use filepull_core::receive::Prefix;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::Greeting;

/// A handle on a live line.
#[derive(Clone, Debug)]
pub(crate) struct SessionHandle {
    /// Quoted in logs.
    pub id: Uuid,
    /// Fences this line against earlier and later ones of the same client.
    pub epoch: u64,
    /// The start of the agent that opened it.
    pub instance: Uuid,
    /// The uploads that the agent still ran when it opened this line.
    pub active: Arc<[TransferId]>,
    /// When the agent was last heard.
    pub heard: watch::Receiver<LastHeard>,
    outbox: mpsc::Sender<Message>,
    ending: Arc<SessionEnd>,
}

/// The pulse of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastHeard {
    /// When the last message came.
    pub at: DateTime<Utc>,
    /// How long the last ping took there and back.
    pub round_trip: Option<Duration>,
}

/// What can be said to an agent.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// Are you there?
    Ping,
    /// Send this file. Boxed, because every idle line has room for 32 messages.
    Start(Box<SendOrder>),
    /// Do not send it after all.
    Cancel {
        /// Which transfer.
        transfer: TransferId,
        /// For the agent's log.
        reason: String,
    },
    /// Dial again between these times, and hang up this line afterwards.
    Drain {
        /// Not sooner.
        min: Duration,
        /// Not later.
        max: Duration,
    },
}

/// An order: send this file, from this byte.
#[derive(Clone, Debug)]
pub(crate) struct SendOrder {
    /// The transfer it is for.
    pub transfer: TransferId,
    /// Supersedes all lower ones.
    pub attempt: u32,
    /// Which file; none is the default file.
    pub path: Option<SharedPath>,
    /// What the server holds already.
    pub prefix: Prefix,
    /// Proves that an upload answers this order.
    pub token: Uuid,
    /// Refuse a larger file.
    pub max_size: u64,
    /// For the agent's log.
    pub requested_by: String,
}

/// Why a line ends, when the server ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// A newer line of the same client took over.
    Replaced,
    /// The agent did not do what a live one does.
    Silent(String),
    /// The server stops.
    Stopping,
}

#[derive(Debug, Default)]
struct SessionEnd {
    why: OnceLock<EndReason>,
    token: CancellationToken,
}

/// Why an order could not be handed to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// The agent reads too slowly.
    #[error("the line is busy")]
    Busy,
    /// The line has ended.
    #[error("the line has ended")]
    Ended,
}

/// 64 messages of at most a few KiB: one stuck agent holds little, then hears "busy".
const OUTBOX_LEN: usize = 64;

impl SessionHandle {
    /// A new line, and the other end of its outbox.
    pub(crate) fn new(
        epoch: u64,
        greeting: &Greeting,
        heard: watch::Receiver<LastHeard>,
    ) -> (Self, mpsc::Receiver<Message>) {
        let instance = greeting.instance;
        let active = greeting.active_transfers.as_slice().into();
        let (outbox, messages) = mpsc::channel(OUTBOX_LEN);
        let ending = Arc::default();
        let id = Uuid::new_v4();
        (Self { id, epoch, instance, active, heard, outbox, ending }, messages)
    }

    /// Says something to the agent, without waiting.
    ///
    /// # Errors
    /// The outbox is full, or the line has ended.
    pub(crate) fn send(&self, message: Message) -> Result<(), OrderError> {
        self.outbox.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrderError::Busy,
            mpsc::error::TrySendError::Closed(_) => OrderError::Ended,
        })
    }

    /// Asks for a sign of life. False if the line has already ended.
    pub(crate) fn probe(&self) -> bool {
        // A full outbox is no death: what is in it will be answered too.
        self.send(Message::Ping) != Err(OrderError::Ended)
    }

    /// Ends the line. The first reason given is the one that counts.
    pub(crate) fn end(&self, why: EndReason) {
        let _ = self.ending.why.set(why);
        self.ending.token.cancel();
    }

    /// Waits until the server ends the line, and says why.
    pub(crate) async fn ended(&self) -> EndReason {
        self.ending.token.cancelled().await;
        self.why_ended().unwrap_or(EndReason::Stopping)
    }

    /// Why the server ended the line, if it did.
    pub(crate) fn why_ended(&self) -> Option<EndReason> {
        self.ending.why.get().cloned()
    }
}
