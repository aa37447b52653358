//! The handle on an open session: a bounded outbox, and the time of the last message.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::base_offer::BaseOffer;
use filepull_core::extent::ExtentKinds;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::TransferId;
use filepull_core::path::SharedPath;
use filepull_core::receive::Prefix;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::client::Greeting;

/// A handle on an open session.
#[derive(Clone, Debug)]
pub(crate) struct SessionHandle {
    pub(crate) id: Uuid,
    /// Fences this session against earlier and later sessions of its client.
    pub(crate) epoch: u64,
    /// Identifies the agent process that opened the session.
    pub(crate) instance: Uuid,
    /// The key that the agent proved to have.
    pub(crate) key: Option<Fingerprint>,
    /// The extents that the agent can send.
    pub(crate) extents: ExtentKinds,
    /// The uploads that the agent still ran when it opened this session.
    pub(crate) active: Arc<[TransferId]>,
    pub(crate) heard: watch::Receiver<LastHeard>,
    outbox: mpsc::Sender<Message>,
    end: Arc<SessionEnd>,
}

/// When the last message of an agent arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastHeard {
    pub(crate) at: DateTime<Utc>,
    /// Time between the last ping and its answer.
    pub(crate) round_trip: Option<Duration>,
}

/// A message to an agent.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// Requests an answer, which proves that the agent is alive.
    Ping,
    /// Requests a file. Boxed: the outbox of an idle session allocates slots for 32 messages.
    Start(Box<SendOrder>),
    /// Takes back the order for a transfer.
    Cancel {
        transfer: TransferId,
        /// For the log of the agent.
        reason: String,
    },
    /// Requests that the agent dials again between `min` and `max` from now, and closes this session
    /// afterwards.
    Drain { min: Duration, max: Duration },
    /// Replaces the pins of the agent. One list for all sessions.
    CaPins(Arc<[Fingerprint]>),
    /// Requests a new key.
    RotateKey,
    /// The next key of the agent is on record.
    KeyAccepted(Fingerprint),
}

/// An order to send one file from an offset.
#[derive(Clone, Debug)]
pub(crate) struct SendOrder {
    pub(crate) transfer: TransferId,
    /// Supersedes all lower attempts of the transfer.
    pub(crate) attempt: u32,
    /// The file, or none for the default file.
    pub(crate) path: Option<SharedPath>,
    /// The bytes that the server has already.
    pub(crate) prefix: Prefix,
    /// The last good download of the file, if the upload may copy from it.
    pub(crate) base: Option<BaseOffer>,
    /// A file that equals the base is not sent.
    pub(crate) if_changed: bool,
    /// Proves that an upload answers this order.
    pub(crate) token: Uuid,
    /// The agent rejects a larger file. In bytes.
    pub(crate) max_size: u64,
    /// For the log of the agent.
    pub(crate) requested_by: String,
}

/// Why the server ends a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// A newer session of the same client replaced it.
    Replaced,
    /// The agent did not behave like a live one.
    Silent(String),
    /// The key of its client does not admit it any more.
    Revoked,
    /// The server is shutting down.
    Stopping,
}

#[derive(Debug, Default)]
struct SessionEnd {
    reason: OnceLock<EndReason>,
    token: CancellationToken,
}

/// Why an order cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// The outbox is full: the agent reads too slowly.
    #[error("the session is busy")]
    Busy,
    /// The session has ended already.
    #[error("the session has ended")]
    Ended,
}

/// 64 messages of at most a few KiB. A stuck agent holds little memory, then gets `Busy`.
const OUTBOX_LEN: usize = 64;

impl SessionHandle {
    /// Creates a session, and returns the messages that its outbox receives.
    pub(crate) fn new(
        epoch: u64,
        greeting: &Greeting,
        heard: watch::Receiver<LastHeard>,
    ) -> (Self, mpsc::Receiver<Message>) {
        let (outbox, messages) = mpsc::channel(OUTBOX_LEN);
        let session = Self {
            id: Uuid::new_v4(),
            epoch,
            instance: greeting.instance,
            key: greeting.key,
            extents: greeting.extents,
            active: greeting.active_transfers.as_slice().into(),
            heard,
            outbox,
            end: Arc::default(),
        };
        (session, messages)
    }

    /// Puts a message into the outbox. Does not wait.
    ///
    /// # Errors
    /// The outbox is full, or the session has ended.
    pub(crate) fn send(&self, message: Message) -> Result<(), OrderError> {
        self.outbox.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrderError::Busy,
            mpsc::error::TrySendError::Closed(_) => OrderError::Ended,
        })
    }

    /// Pings the agent. Returns false if the session has already ended.
    pub(crate) fn probe(&self) -> bool {
        // With a full outbox the agent still answers the pings that are queued.
        self.send(Message::Ping) != Err(OrderError::Ended)
    }

    /// Ends the session. Only the reason of the first call counts.
    pub(crate) fn end(&self, reason: EndReason) {
        let _ = self.end.reason.set(reason);
        self.end.token.cancel();
    }

    /// Waits until the server ends the session, and returns the reason.
    pub(crate) async fn ended(&self) -> EndReason {
        self.end.token.cancelled().await;
        self.why_ended().unwrap_or(EndReason::Stopping)
    }

    /// Returns why the server ended the session. None while it is open.
    pub(crate) fn why_ended(&self) -> Option<EndReason> {
        self.end.reason.get().cloned()
    }
}
