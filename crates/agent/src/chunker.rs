//! Connects the thread of a reader with its upload: takes blocks, and returns chunks at the pace of
//! the upload.
//!
//! A block is one message between the two threads, however many chunks it has, because waking a
//! thread costs as much as sending a chunk.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use filepull_core::pace::Pace;
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;
use futures::{Stream, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cpu_limit::CpuLimit;
use crate::read::{ClosedSink, ReadError, Reader, Step};
use crate::transfer_log::SentBytes;

/// One block waits while another one is split into chunks. If the queue is full the reader waits,
/// so the network slows the disk down.
const QUEUE_LEN: usize = 1;

/// Runs a reader, and sends its steps to a [`Chunker`].
#[derive(Debug)]
pub(crate) struct BlockSender {
    steps: mpsc::Sender<Step>,
    stop: CancellationToken,
}

/// Returns the messages of one upload.
#[derive(Debug)]
pub(crate) struct Chunker {
    steps: mpsc::Receiver<Step>,
    /// The rest of the current block, and its offset in the file.
    block: Bytes,
    offset: u64,
    chunk_len: usize,
    pace: Option<Pace>,
    sent: SentBytes,
}

/// The result of [`Chunker::first`], while the prefix is compared and after that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FirstMessage {
    /// The reader still compares the file with the bytes of the server.
    Proving,
    Message(v1::UploadRequest),
}

/// Connects a reader with an upload. The reader stops at `stop`, or when the chunker is dropped. `sent`
/// counts the bytes of the chunks.
pub(crate) fn block_channel(
    chunk_len: usize,
    pace: Option<Pace>,
    sent: SentBytes,
    stop: CancellationToken,
) -> (BlockSender, Chunker) {
    let (sender, steps) = mpsc::channel(QUEUE_LEN);
    let chunker = Chunker { steps, block: Bytes::new(), offset: 0, chunk_len, pace, sent };
    (BlockSender { steps: sender, stop }, chunker)
}

impl BlockSender {
    /// Runs `reader` to its end, with pauses if the CPU time is limited. Blocks, so it needs its own
    /// thread.
    pub(crate) fn run(
        self,
        reader: &Reader,
        cpu_limit: Option<&CpuLimit>,
    ) -> Result<(), ReadError> {
        let runtime = Handle::current();
        reader.read(&mut |step| {
            // `blocking_send` would ignore `stop` while the network is blocked.
            let taken = self.stop.run_until_cancelled(self.take(step, cpu_limit));
            runtime.block_on(taken).unwrap_or(Err(ClosedSink))
        })
    }

    /// Sends a step, then pauses the reader as long as the limit requires.
    async fn take(&self, step: Step, cpu_limit: Option<&CpuLimit>) -> Result<(), ClosedSink> {
        self.send(step).await?;
        if let Some(cpu_limit) = cpu_limit {
            sleep(cpu_limit.pause()).await;
        }
        Ok(())
    }

    async fn send(&self, step: Step) -> Result<(), ClosedSink> {
        match step {
            Step::Read => Ok(()),
            step @ (Step::Send(_) | Step::Block { .. } | Step::Proving) => {
                self.steps.send(step).await.map_err(|_| ClosedSink)
            }
        }
    }
}

impl Chunker {
    /// Returns the first message, or that the reader is still comparing. `None` if the reader has
    /// ended.
    pub(crate) async fn first(&mut self) -> Option<FirstMessage> {
        loop {
            match self.steps.recv().await? {
                Step::Send(kind) => {
                    return Some(FirstMessage::Message(v1::UploadRequest { kind: Some(kind) }));
                }
                Step::Proving => return Some(FirstMessage::Proving),
                Step::Block { .. } | Step::Read => {}
            }
        }
    }

    /// Returns the next message to the server; `None` if the reader has ended.
    pub(crate) async fn next(&mut self) -> Option<v1::UploadRequest> {
        while self.block.is_empty() {
            match self.steps.recv().await? {
                Step::Send(kind) => return Some(v1::UploadRequest { kind: Some(kind) }),
                Step::Block { offset, bytes } => {
                    self.offset = offset;
                    self.block = bytes;
                }
                Step::Read | Step::Proving => {}
            }
        }
        let data = self.block.split_to(self.chunk_len.min(self.block.len()));
        let len_bytes = data.len() as u64;
        if let Some(pace) = &mut self.pace {
            sleep(pace.wait_for(len_bytes, Instant::now())).await;
        }
        let kind = Some(Kind::Chunk(v1::DataChunk { offset: self.offset, data }));
        self.offset += len_bytes;
        self.sent.fetch_add(len_bytes, Ordering::Relaxed);
        Some(v1::UploadRequest { kind })
    }

    /// Returns the remaining messages as a stream.
    pub(crate) fn rest(self) -> impl Stream<Item = v1::UploadRequest> + Send {
        stream::unfold(self, async |mut chunker| Some((chunker.next().await?, chunker)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn blocks_become_consecutive_chunks() {
        let (sender, chunker) =
            block_channel(4, None, SentBytes::default(), CancellationToken::new());
        let send = async move {
            for (offset, bytes) in [(7, "0123456789"), (17, "ab")] {
                let bytes = Bytes::from_static(bytes.as_bytes());
                sender.send(Step::Block { offset, bytes }).await.unwrap();
            }
            let trailer = v1::UploadTrailer { total_size: 19, ..v1::UploadTrailer::default() };
            sender.send(Step::Send(Kind::Trailer(trailer))).await.unwrap();
        };
        let (requests, ()) = futures::join!(chunker.rest().collect::<Vec<_>>(), send);
        let chunks: Vec<_> = requests
            .iter()
            .map(|request| match request.kind.as_ref().unwrap() {
                Kind::Chunk(chunk) => (chunk.offset, &chunk.data[..]),
                Kind::Trailer(trailer) => (trailer.total_size, &b"end"[..]),
                Kind::Header(_)
                | Kind::Zstd(_)
                | Kind::Hole(_)
                | Kind::Copy(_)
                | Kind::Abort(_) => {
                    unreachable!()
                }
            })
            .collect();
        let expected: [(u64, &[u8]); 5] =
            [(7, b"0123"), (11, b"4567"), (15, b"89"), (17, b"ab"), (19, b"end")];
        assert_eq!(chunks, expected);
    }

    #[tokio::test]
    async fn the_progress_of_a_proof_is_returned_before_the_first_message() {
        let (sender, mut chunker) =
            block_channel(4, None, SentBytes::default(), CancellationToken::new());
        let send = async move {
            sender.send(Step::Proving).await.unwrap();
            sender.send(Step::Proving).await.unwrap();
            let header = Kind::Header(v1::UploadHeader::default());
            sender.send(Step::Send(header)).await.unwrap();
        };
        let receive =
            async { [chunker.first().await, chunker.first().await, chunker.first().await] };
        let ([one, two, three], ()) = futures::join!(receive, send);
        assert_eq!([one, two], [Some(FirstMessage::Proving), Some(FirstMessage::Proving)]);
        assert!(matches!(three, Some(FirstMessage::Message(_))), "{three:?}");
    }

    #[tokio::test]
    async fn a_reader_stops_when_its_chunker_is_dropped() {
        let (sender, chunker) =
            block_channel(4, None, SentBytes::default(), CancellationToken::new());
        drop(chunker);
        let block = Step::Block { offset: 0, bytes: Bytes::from_static(b"x") };
        assert_eq!(sender.send(block).await, Err(ClosedSink));
    }
}
