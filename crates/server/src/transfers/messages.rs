//! Messages between an agent, a caller and the task of a transfer.

use chrono::{DateTime, Utc};
use filepull_core::problem::Problem;
use filepull_core::receive::Verified;
use filepull_core::source::Source;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::upload::BlockListPart;
use crate::receive::UploadStream;

/// The answer of an agent to an order.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The agent has opened the file and sends it.
    Accepted {
        /// The file.
        source: Source,
        /// The bytes that its disk stores: less than its size if holes are sent as such.
        stored: u64,
    },
    /// The agent has read the file, and it equals the base of the order.
    Unchanged(Source),
    /// The file cannot be sent.
    Refused(Problem),
    /// The file cannot be sent now. The reason is a text.
    TryAgain(String),
}

/// One upload of an agent, after its header.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The attempt that it answers.
    pub attempt: u32,
    /// The token of the order.
    pub token: Uuid,
    /// The offset of its first byte.
    pub offset: u64,
    /// The file as the agent opened it.
    pub source: Source,
    /// The bytes that the disk of the agent stores, at most the size.
    pub stored: u64,
    /// Takes the list of the blocks of the base, if the agent waits for it.
    pub block_list: Option<mpsc::Sender<BlockListPart>>,
    /// The chunks and the trailer.
    pub stream: UploadStream,
    /// The responses to the agent.
    pub replies: mpsc::Sender<Reply>,
}

/// A response to an upload.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The progress of the upload.
    Ack {
        /// The bytes received in all attempts.
        received: u64,
        /// The bytes that survive a power cut.
        durable: u64,
    },
    /// The file has its final name.
    Stored {
        /// The name in the client's folder.
        name: String,
        /// The size and the digest.
        proof: Verified,
    },
    /// The server ends the attempt, because the agent broke the protocol.
    Violation {
        /// What is wrong.
        reason: String,
    },
    /// The server ends the attempt.
    Refused {
        /// Why the attempt is over.
        problem: Problem,
        /// The offset that the server expects, if the upload began elsewhere.
        expected_offset: Option<u64>,
    },
}

/// An instruction to the task of a transfer.
#[derive(Debug)]
pub(crate) enum Command {
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

/// Ends the attempt of an agent.
pub(crate) fn refuse(
    replies: &mpsc::Sender<Reply>,
    problem: Problem,
    expected_offset: Option<u64>,
) {
    // An agent that has disconnected needs no response.
    let _ = replies.try_send(Reply::Refused { problem, expected_offset });
}
