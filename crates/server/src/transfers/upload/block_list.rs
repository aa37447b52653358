//! Sends the list of the blocks of a base at the start of an upload.
//!
//! It has its own queue to the agent, so that no ack waits behind it. The base is read only as fast as the
//! agent takes the list.

use std::mem;

use bytes::Bytes;
use filepull_core::delta::BlockHasher;
use filepull_core::human::chain;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::store::Base;
use crate::transfers::base::{OfferedBase, READ_LEN};

/// A part of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockListPart {
    /// The next ids, at most [`PART_LEN`] bytes.
    Ids(Bytes),
    /// The base cannot be read: the list ends here.
    Gone,
}

/// Maximum number of bytes of the ids in one message.
const PART_LEN: usize = 48 * 1024;

/// Maximum number of bytes of the ids of one reading: blocks have at least 1 KiB.
const MAX_READ_IDS: usize = READ_LEN / 1024 * 8;

/// What [`BlockListSender::next`] waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListEvent {
    /// Bytes of the base were read, or the agent has taken a part.
    Progress,
    /// The base cannot be read. The reason is a text.
    Failed(String),
}

/// The list that one upload still gets.
#[derive(Debug)]
pub(crate) struct BlockListSender {
    state: ListState,
}

#[derive(Debug)]
enum ListState {
    Reading(mpsc::Sender<BlockListPart>, ReadJob),
    /// The queue has no capacity yet. Without a reader it is the last part.
    Sending(mpsc::Sender<BlockListPart>, BlockListPart, Option<Box<BlockReader>>),
    Ended,
}

type ReadJob = JoinHandle<(Box<BlockReader>, Result<(), String>)>;

/// A base, and the ids of its blocks up to an offset.
#[derive(Debug)]
struct BlockReader {
    file: Base,
    offset: u64,
    hasher: BlockHasher,
    buffer: Vec<u8>,
    /// The ids that are not sent yet.
    ids: Vec<u8>,
}

impl BlockListSender {
    /// Starts the list of `base` for an agent that waits for `parts`. Without a base that has a list, the
    /// agent learns that it is gone.
    pub(crate) fn start(
        parts: Option<mpsc::Sender<BlockListPart>>,
        base: Option<&OfferedBase>,
    ) -> Self {
        let Some(parts) = parts else { return Self { state: ListState::Ended } };
        let reader = base.and_then(BlockReader::new);
        let state = match reader {
            Some(reader) => ListState::Reading(parts, read(reader)),
            None => ListState::Sending(parts, BlockListPart::Gone, None),
        };
        Self { state }
    }

    /// Returns whether the agent waits for this server's disk.
    pub(crate) fn is_reading(&self) -> bool {
        matches!(self.state, ListState::Reading(..))
    }

    /// Returns whether the agent still waits for the list.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self.state, ListState::Ended)
    }

    /// Waits for the next event; forever after the last part. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> ListEvent {
        match &mut self.state {
            ListState::Reading(_, job) => {
                let finished = job.await;
                let (reader, result) =
                    finished.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                self.read_done(reader, result)
            }
            ListState::Sending(parts, ..) => {
                let has_agent = parts.reserve().await.is_ok();
                self.send(has_agent);
                ListEvent::Progress
            }
            ListState::Ended => std::future::pending().await,
        }
    }

    fn read_done(&mut self, mut reader: Box<BlockReader>, result: Result<(), String>) -> ListEvent {
        let ListState::Reading(parts, _) = mem::replace(&mut self.state, ListState::Ended) else {
            return ListEvent::Progress;
        };
        if let Err(reason) = result {
            self.state = ListState::Sending(parts, BlockListPart::Gone, None);
            return ListEvent::Failed(reason);
        }
        let is_complete = reader.is_complete();
        self.state = if is_complete || PART_LEN < reader.ids.len() + MAX_READ_IDS {
            let part = BlockListPart::Ids(mem::take(&mut reader.ids).into());
            ListState::Sending(parts, part, (!is_complete).then_some(reader))
        } else {
            ListState::Reading(parts, read(reader))
        };
        ListEvent::Progress
    }

    fn send(&mut self, has_agent: bool) {
        let state = mem::replace(&mut self.state, ListState::Ended);
        let ListState::Sending(parts, part, reader) = state else { return };
        // Only this sender uses the queue, so the reserved capacity is still there.
        let is_sent = has_agent && parts.try_send(part).is_ok();
        if let Some(reader) = reader.filter(|_| is_sent) {
            self.state = ListState::Reading(parts, read(reader));
        }
    }
}

/// Reads the next bytes on the blocking pool.
fn read(reader: Box<BlockReader>) -> ReadJob {
    spawn_blocking(move || {
        let mut reader = reader;
        let result = reader.read();
        (reader, result)
    })
}

impl BlockReader {
    /// Starts at the first block; none if there is no list of this base.
    fn new(base: &OfferedBase) -> Option<Box<Self>> {
        let blocks = base.offer.blocks?;
        Some(Box::new(Self {
            file: base.file.clone(),
            offset: 0,
            hasher: BlockHasher::new(blocks.key, blocks.block_len),
            buffer: vec![0; READ_LEN],
            ids: Vec::new(),
        }))
    }

    fn is_complete(&self) -> bool {
        self.offset == self.file.len()
    }

    /// Reads the next bytes, and computes the ids of the blocks that they complete.
    fn read(&mut self) -> Result<(), String> {
        let n_missing = self.file.len() - self.offset;
        let len = usize::try_from(n_missing).map_or(READ_LEN, |len| len.min(READ_LEN));
        let buffer = &mut self.buffer[..len];
        let n_read = self.file.read_at(buffer, self.offset).map_err(|error| chain(&error))?;
        if n_read < len {
            let found = self.offset + n_read as u64;
            return Err(format!("the file has {found} of {} bytes", self.file.len()));
        }
        self.hasher.update(buffer, &mut self.ids);
        self.offset += len as u64;
        Ok(())
    }
}
