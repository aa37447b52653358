//! The way from the thread of a reader into an upload: blocks go in, chunks come out at a pace.
//!
//! A block is one message between the two threads, however many chunks it makes: to wake a thread
//! costs as much as to send a chunk.

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

use crate::read::{ReadError, ReadStopped, Reader, Step};

/// While one block is cut into chunks another may wait. When it is full the reader waits, which is
/// how the network slows the disk.
const QUEUE_LEN: usize = 1;

/// The reader's end.
#[derive(Debug)]
pub(crate) struct BlockSender {
    steps: mpsc::Sender<Step>,
    stop: CancellationToken,
}

/// The upload's end.
#[derive(Debug)]
pub(crate) struct Chunker {
    steps: mpsc::Receiver<Step>,
    /// What is left of the block in hand, and where it belongs.
    block: Bytes,
    offset: u64,
    chunk_len: usize,
    pace: Option<Pace>,
}

/// How an upload begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FirstMessage {
    /// Not yet: the reader still proves what the server holds.
    Proving,
    /// With this.
    Message(v1::UploadRequest),
}

/// Both ends. `stop` ends the reader, and so does dropping the cutter.
pub(crate) fn outlet(
    chunk_len: usize,
    pace: Option<Pace>,
    stop: CancellationToken,
) -> (BlockSender, Chunker) {
    let (outlet, steps) = mpsc::channel(QUEUE_LEN);
    let cutter = Chunker { steps, block: Bytes::new(), offset: 0, chunk_len, pace };
    (BlockSender { steps: outlet, stop }, cutter)
}

impl BlockSender {
    /// Runs `reader` to its end. It blocks, and belongs on a thread of its own.
    pub(crate) fn drive(self, reader: &Reader) -> Result<(), ReadError> {
        let runtime = Handle::current();
        reader.read(&mut |step| {
            // Not `blocking_send`, which would be deaf to `stop` while the network stands still.
            let taken = self.stop.run_until_cancelled(self.take(step));
            runtime.block_on(taken).unwrap_or(Err(ReadStopped))
        })
    }

    async fn take(&self, step: Step) -> Result<(), ReadStopped> {
        match step {
            Step::Read => Ok(()),
            step @ (Step::Send(_) | Step::Block { .. } | Step::Proving) => {
                self.steps.send(step).await.map_err(|_| ReadStopped)
            }
        }
    }
}

impl Chunker {
    /// The first message; before it comes, that the proof of a prefix goes on.
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

    /// The next message to the server; none when the reader has ended.
    pub(crate) async fn next(&mut self) -> Option<v1::UploadRequest> {
        while self.block.is_empty() {
            match self.steps.recv().await? {
                Step::Send(kind) => return Some(v1::UploadRequest { kind: Some(kind) }),
                Step::Block { offset, bytes } => (self.offset, self.block) = (offset, bytes),
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
        Some(v1::UploadRequest { kind })
    }

    /// All that is still to come.
    pub(crate) fn rest(self) -> impl Stream<Item = v1::UploadRequest> + Send {
        stream::unfold(self, async |mut cutter| Some((cutter.next().await?, cutter)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn blocks_come_out_as_chunks_that_follow_each_other() {
        let (outlet, cutter) = outlet(4, None, CancellationToken::new());
        let send = async move {
            for (offset, bytes) in [(7, "0123456789"), (17, "ab")] {
                let bytes = Bytes::from_static(bytes.as_bytes());
                outlet.take(Step::Block { offset, bytes }).await.unwrap();
            }
            let end = v1::UploadTrailer { total_size: 19, sha256: Bytes::new() };
            outlet.take(Step::Send(Kind::Trailer(end))).await.unwrap();
        };
        let (requests, ()) = futures::join!(cutter.rest().collect::<Vec<_>>(), send);
        let chunks: Vec<_> = requests
            .iter()
            .map(|request| match request.kind.as_ref().unwrap() {
                Kind::Chunk(chunk) => (chunk.offset, &chunk.data[..]),
                Kind::Trailer(trailer) => (trailer.total_size, &b"end"[..]),
                Kind::Header(_) | Kind::Abort(_) => unreachable!(),
            })
            .collect();
        let expected: [(u64, &[u8]); 5] =
            [(7, b"0123"), (11, b"4567"), (15, b"89"), (17, b"ab"), (19, b"end")];
        assert_eq!(chunks, expected);
    }

    #[tokio::test]
    async fn a_proof_that_goes_on_is_told_before_the_first_message() {
        let (outlet, mut cutter) = outlet(4, None, CancellationToken::new());
        let send = async move {
            outlet.take(Step::Proving).await.unwrap();
            outlet.take(Step::Proving).await.unwrap();
            let header = Kind::Header(v1::UploadHeader::default());
            outlet.take(Step::Send(header)).await.unwrap();
        };
        let take = async { [cutter.first().await, cutter.first().await, cutter.first().await] };
        let ([one, two, three], ()) = futures::join!(take, send);
        assert_eq!([one, two], [Some(FirstMessage::Proving), Some(FirstMessage::Proving)]);
        assert!(matches!(three, Some(FirstMessage::Message(_))), "{three:?}");
    }

    #[tokio::test]
    async fn a_reader_hears_that_nobody_takes_its_blocks() {
        let (outlet, cutter) = outlet(4, None, CancellationToken::new());
        drop(cutter);
        let block = Step::Block { offset: 0, bytes: Bytes::from_static(b"x") };
        assert_eq!(outlet.take(block).await, Err(ReadStopped));
    }
}
