//! What an agent says about a transfer, and what it is told.

use chrono::{DateTime, Utc};
use filepull_core::problem::Problem;
use filepull_core::receive::Verified;
use filepull_core::source::Source;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::receive::BatchWriter;

/// What an agent said about an order.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The file is open.
    Accepted(Source),
    /// It cannot be sent.
    Refused(Problem),
    /// It could not be sent this time.
    TryAgain(String),
}

/// One attempt, as it arrives from an agent.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The order it answers.
    pub attempt: u32,
    /// The order's token.
    pub token: Uuid,
    /// Where its bytes begin.
    pub offset: u64,
    /// The file as the agent opened it.
    pub source: Source,
    /// The bytes.
    pub reception: BatchWriter,
    /// What the agent is told.
    pub replies: mpsc::Sender<Reply>,
}

/// What an agent is told about its upload.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
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
pub(super) enum Command {
    Answer {
        attempt: u32,
        answer: Answer,
    },
    Upload(Box<Upload>),
    Cancel(Problem),
    /// Wait at least until `until`, and answer once that is on record.
    Extend {
        until: DateTime<Utc>,
        done: oneshot::Sender<Result<(), Problem>>,
    },
}

/// Tells an agent that its attempt is over.
pub(super) fn refuse(
    replies: &mpsc::Sender<Reply>,
    problem: Problem,
    expected_offset: Option<u64>,
) {
    // An agent that has hung up needs no answer.
    let _ = replies.try_send(Reply::Refused { problem, expected_offset });
}
