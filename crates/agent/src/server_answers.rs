//! What the server sends during an upload, for the thread that reads the file.

use std::time::{Duration, Instant};

use filepull_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Messages of a list of blocks that wait for the reader: 48 KiB each. If the queue is full the upload
/// reads no further answer until the reader has taken one.
const QUEUE_LEN: usize = 2;

/// The server has received the first bytes of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    /// Their number.
    pub(crate) received: u64,
    /// When the agent got the message.
    pub(crate) at: Instant,
}

/// Passes on what the server sends.
#[derive(Debug)]
pub(crate) struct AnswerSender {
    acks: watch::Sender<Option<Ack>>,
    blocks: mpsc::Sender<v1::BaseBlocks>,
}

/// What the server has sent. Each upload has its own.
#[derive(Debug)]
pub(crate) struct ServerAnswers {
    pub(crate) acks: watch::Receiver<Option<Ack>>,
    blocks: mpsc::Receiver<v1::BaseBlocks>,
}

/// The next message of a list of blocks.
#[derive(Debug)]
pub(crate) enum NextBlocks {
    Blocks(v1::BaseBlocks),
    TimedOut,
    /// The upload has ended.
    Closed,
}

/// Connects the answers to an upload with its reader.
pub(crate) fn answer_channel() -> (AnswerSender, ServerAnswers) {
    let (ack_sender, acks) = watch::channel(None);
    let (block_sender, blocks) = mpsc::channel(QUEUE_LEN);
    (AnswerSender { acks: ack_sender, blocks: block_sender }, ServerAnswers { acks, blocks })
}

impl AnswerSender {
    pub(crate) fn ack(&self, ack: v1::UploadAck) {
        self.acks.send_replace(Some(Ack { received: ack.received, at: Instant::now() }));
    }

    /// Passes on a part of a list. Does nothing if the reader wants none.
    pub(crate) async fn blocks(&self, blocks: v1::BaseBlocks) {
        let _ = self.blocks.send(blocks).await;
    }
}

impl ServerAnswers {
    /// Waits for the next part of the list. Blocks, on a thread of a runtime's blocking pool.
    pub(crate) fn next_blocks(&mut self, max_wait: Duration) -> NextBlocks {
        match Handle::current().block_on(timeout(max_wait, self.blocks.recv())) {
            Ok(Some(blocks)) => NextBlocks::Blocks(blocks),
            Ok(None) => NextBlocks::Closed,
            Err(_elapsed) => NextBlocks::TimedOut,
        }
    }

    /// Accepts no more parts of a list.
    pub(crate) fn close_list(&mut self) {
        self.blocks.close();
    }
}
