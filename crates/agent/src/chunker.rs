//! Connects the thread of a reader with its upload: takes blocks and extents, and returns messages at
//! the pace of the upload.
//!
//! A block is one message between the two threads, however many chunks it has, because waking a
//! thread costs as much as sending a chunk. Extents are passed in batches for the same reason.

use std::collections::VecDeque;
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

use crate::compressor::content_len;
use crate::cpu_limit::CpuLimit;
use crate::read::{ClosedSink, ReadError, Reader, Step};
use crate::server_answers::ServerAnswers;
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
    /// The rest of the current batch.
    extents: VecDeque<Kind>,
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
    /// The file equals the base, and nothing is sent.
    Unchanged,
    Message(v1::UploadRequest),
}

/// Connects a reader with an upload. The reader stops at `stop`, or when the chunker is dropped. `sent`
/// counts the bytes that the extents bring.
pub(crate) fn block_channel(
    chunk_len: usize,
    pace: Option<Pace>,
    sent: SentBytes,
    stop: CancellationToken,
) -> (BlockSender, Chunker) {
    let (sender, steps) = mpsc::channel(QUEUE_LEN);
    let chunker = Chunker {
        steps,
        extents: VecDeque::new(),
        block: Bytes::new(),
        offset: 0,
        chunk_len,
        pace,
        sent,
    };
    (BlockSender { steps: sender, stop }, chunker)
}

impl BlockSender {
    /// Runs `reader` to its end, with pauses if the CPU time is limited. Blocks, so it needs its own
    /// thread.
    pub(crate) fn run(
        self,
        reader: &Reader,
        answers: &mut ServerAnswers,
        cpu_limit: Option<&CpuLimit>,
    ) -> Result<(), ReadError> {
        let runtime = Handle::current();
        reader.read(answers, &mut |step| {
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
            step @ (Step::Send(_)
            | Step::Block { .. }
            | Step::Extents(_)
            | Step::Proving
            | Step::Unchanged) => self.steps.send(step).await.map_err(|_| ClosedSink),
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
                Step::Unchanged => return Some(FirstMessage::Unchanged),
                Step::Block { .. } | Step::Extents(_) | Step::Read => {}
            }
        }
    }

    /// Returns the next message to the server; `None` if the reader has ended.
    pub(crate) async fn next(&mut self) -> Option<v1::UploadRequest> {
        loop {
            if let Some(extent) = self.next_extent() {
                return Some(self.paced(extent).await);
            }
            match self.steps.recv().await? {
                Step::Send(kind) => return Some(v1::UploadRequest { kind: Some(kind) }),
                Step::Block { offset, bytes } => {
                    self.offset = offset;
                    self.block = bytes;
                }
                Step::Extents(extents) => self.extents = extents.into(),
                Step::Read | Step::Proving | Step::Unchanged => {}
            }
        }
    }

    /// Returns the next extent that the reader has sent already.
    fn next_extent(&mut self) -> Option<Kind> {
        if self.block.is_empty() {
            return self.extents.pop_front();
        }
        let data = self.block.split_to(self.chunk_len.min(self.block.len()));
        let offset = self.offset;
        self.offset += data.len() as u64;
        Some(Kind::Chunk(v1::DataChunk { offset, data }))
    }

    /// Counts an extent, and waits until the pace admits its bytes on the wire.
    async fn paced(&mut self, extent: Kind) -> v1::UploadRequest {
        if let Some(pace) = &mut self.pace {
            sleep(pace.wait_for(extent.encoded_len() as u64, Instant::now())).await;
        }
        self.sent.fetch_add(content_len(&extent), Ordering::Relaxed);
        v1::UploadRequest { kind: Some(extent) }
    }

    /// Returns the remaining messages as a stream.
    pub(crate) fn rest(self) -> impl Stream<Item = v1::UploadRequest> + Send {
        stream::unfold(self, async |mut chunker| Some((chunker.next().await?, chunker)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
    async fn extents_are_returned_one_by_one_and_counted_by_the_bytes_that_they_bring() {
        let sent = SentBytes::default();
        let stop = CancellationToken::new();
        let (sender, chunker) = block_channel(4, None, Arc::clone(&sent), stop);
        let zstd = Kind::Zstd(v1::ZstdChunk { offset: 0, len: 9, data: "abc".into() });
        let hole = Kind::Hole(v1::Hole { offset: 9, len: 1 << 20 });
        let copy = Kind::Copy(v1::BaseCopy { offset: 9 + (1 << 20), base_offset: 5, len: 7 });
        let extents = vec![zstd, hole, copy];
        let send = async {
            sender.send(Step::Extents(extents.clone())).await.unwrap();
            drop(sender);
        };
        let (requests, ()) = futures::join!(chunker.rest().collect::<Vec<_>>(), send);
        let kinds: Vec<_> = requests.into_iter().map(|request| request.kind.unwrap()).collect();
        assert_eq!(kinds, extents);
        assert_eq!(sent.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn the_pace_counts_bytes_on_the_wire() {
        // The bytes of the file would take 35 years.
        let pace = Some(Pace::new(1_000_000, Instant::now()));
        let (sender, mut chunker) =
            block_channel(4, pace, SentBytes::default(), CancellationToken::new());
        let copy = |offset| Kind::Copy(v1::BaseCopy { offset, base_offset: 0, len: 1 << 50 });
        sender.send(Step::Extents(vec![copy(0), copy(1 << 50)])).await.unwrap();
        chunker.next().await.unwrap();
        let start = Instant::now();
        chunker.next().await.unwrap();
        assert!(start.elapsed() < std::time::Duration::from_secs(30));
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
