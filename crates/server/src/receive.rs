//! Drives an upload's pieces through a core `Receiver` into a partial.
//!
//! One blocking job writes at a time; what arrives meanwhile is the next batch. So batches are
//! small on a slow line and large on a fast one. While a batch waits behind a slow disk nothing more
//! is read from the connection: the line slows down instead of filling the memory.

mod received_partial;
mod stall;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use filepull_core::CHUNK_LEN;
use filepull_core::digest::Digest;
use filepull_core::problem::Problem;
use filepull_core::receive::ReceiveError;
use futures::{Stream, StreamExt as _};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::read_budget::ReadBudget;
use crate::store::StoreError;
pub(crate) use received_partial::ReceivedPartial;
use stall::Stall;

/// What an agent sends after the header of an upload.
#[derive(Clone, Debug)]
pub(crate) enum UploadItem {
    /// The next bytes.
    Chunk {
        /// Where they belong.
        offset: u64,
        /// At most `CHUNK_LEN` of them.
        bytes: Bytes,
    },
    /// The whole file has been sent.
    End {
        /// Its size.
        total_size: u64,
        /// The digest of what the agent read.
        digest: Digest,
    },
    /// The file cannot be sent as it is.
    Abort(Problem),
}

/// The pieces of one upload, or the words for how its stream broke.
pub(crate) type UploadItems = Pin<Box<dyn Stream<Item = Result<UploadItem, String>> + Send>>;

/// How an upload ended.
#[derive(Debug)]
pub(crate) enum UploadEnd {
    /// With its trailer: the agent has sent everything.
    Complete { total_size: u64, digest: Digest },
    /// The agent gave up.
    Abort(Problem),
    /// The stream broke, or ended without a trailer.
    Broken(String),
    /// A chunk was not the next one.
    Bad(ReceiveError),
    /// The disk failed: the partial must not be used any more.
    Disk(StoreError),
}

/// What [`Reception::next`] saw.
#[derive(Debug)]
pub(crate) enum WriteEvent {
    /// What has been received so far is written.
    Wrote,
    /// The disk has been writing for too long and continues; `held` stays empty.
    DiskStalled,
    /// The upload is over, and everything that arrived has been written.
    Ended(UploadEnd),
}

/// Enough for one large write; while it runs, at most as much again is read from the connection.
const BATCH_LEN: usize = 1024 * 1024;

/// What all batches that wait may hold together: more in a batch makes one upload quicker, and
/// many at once hardly.
const BATCHES_LEN: usize = 5 * BATCH_LEN;

/// The batch of each of so many uploads.
pub(crate) fn batch_len(n_running: usize) -> usize {
    (BATCHES_LEN / n_running.max(1)).clamp(CHUNK_LEN, BATCH_LEN)
}

/// What a chunk costs at least, in bytes: its place in the batch.
const LEAST_COST: usize = 256;

/// An upload on its way to the disk.
pub(crate) struct BatchWriter {
    pieces: UploadItems,
    brake: ReadBudget,
    batch: Vec<(u64, Bytes)>,
    batch_len: usize,
    job: Option<JoinHandle<(ReceivedPartial, Result<(), UploadEnd>)>>,
    end: Option<UploadEnd>,
    /// When the current disk job counts as stalled.
    stalls_at: Option<Instant>,
    stall: Stall,
    /// How many bytes the agent may still send.
    n_expected: u64,
}

/// A disk that works longer on one job has stalled. By then the agent has not waited too long for
/// the answer to an HTTP/2 ping.
const STALLS_AFTER: Duration = Duration::from_secs(5);

impl BatchWriter {
    /// Reads nothing ahead until the first call of `next`: by then the partial is there.
    pub(crate) fn new(pieces: UploadItems, brake: ReadBudget) -> Self {
        brake.begin_upload();
        Self {
            pieces,
            brake,
            batch: Vec::new(),
            batch_len: 0,
            job: None,
            end: None,
            stalls_at: None,
            stall: Stall::default(),
            n_expected: 0,
        }
    }

    /// Waits for the next thing worth telling, and reads a batch of at most `batch_len` bytes ahead
    /// meanwhile. `held` is empty while a job writes to it, and full again whenever this returns.
    /// Dropping the future loses nothing.
    pub(crate) async fn next(
        &mut self,
        held: &mut Option<ReceivedPartial>,
        batch_len: usize,
    ) -> WriteEvent {
        loop {
            let idle = held.is_some() && self.job.is_none();
            if self.batch.is_empty()
                && self.job.is_none()
                && let Some(end) = self.end.take()
            {
                return WriteEvent::Ended(end);
            }
            let room = batch_len.saturating_sub(self.batch_len);
            let takes_more = self.end.is_none() && 0 < room && !self.stall.is_now();
            tokio::select! {
                // What has come already joins the batch: a job costs two changes of thread.
                biased;
                piece = next_piece(&mut self.pieces, &self.brake, room, &mut self.stall), if takes_more => {
                    self.take(piece);
                }
                () = std::future::ready(()), if idle && !self.batch.is_empty() => {
                    if let Some(held) = held.take() {
                        self.start_job(held);
                    }
                }
                (written, result) = finished(&mut self.job) => {
                    self.job = None;
                    self.stalls_at = None;
                    self.stall.end();
                    *held = Some(written);
                    return self.job_done(result);
                }
                () = reached(self.stalls_at) => {
                    self.stalls_at = None;
                    self.stall.begin(self.n_expected, &self.brake);
                    return WriteEvent::DiskStalled;
                }
            }
        }
    }

    /// Waits for a disk job before the first byte is written. An unanswered ping must not drop the
    /// connection meanwhile, so `on_stall` is called when the disk stalls.
    pub(crate) async fn while_disk_works<T>(
        &mut self,
        n_expected: u64,
        work: impl Future<Output = T>,
        on_stall: impl FnOnce(),
    ) -> T {
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = sleep(STALLS_AFTER) => {}
        }
        self.stall.begin(n_expected, &self.brake);
        on_stall();
        let done = work.await;
        self.stall.end();
        done
    }

    /// A write job runs: the agent waits for this server's disk.
    pub(crate) fn is_writing(&self) -> bool {
        self.job.is_some()
    }

    /// The disk stalled, and the connection has not been seen alive since.
    pub(crate) fn disk_stalled(&self) -> bool {
        self.stall.has_been()
    }

    /// Waits for the job that still writes, if any, and drops what it has not taken.
    ///
    /// # Errors
    /// That job's write failed: nobody may build on this partial.
    pub(crate) async fn settle(
        mut self,
        held: &mut Option<ReceivedPartial>,
    ) -> Result<(), StoreError> {
        if self.job.is_none() {
            return Ok(());
        }
        let (written, result) = finished(&mut self.job).await;
        *held = Some(written);
        match result {
            Err(UploadEnd::Disk(error)) => Err(error),
            Ok(())
            | Err(
                UploadEnd::Complete { .. }
                | UploadEnd::Abort(_)
                | UploadEnd::Broken(_)
                | UploadEnd::Bad(_),
            ) => Ok(()),
        }
    }

    fn start_job(&mut self, mut held: ReceivedPartial) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_len = 0;
        self.stalls_at = Some(Instant::now() + STALLS_AFTER);
        self.n_expected = held.receiver.announced().saturating_sub(held.receiver.received());
        self.job = Some(spawn_blocking(move || {
            let result = held.write(batch);
            (held, result)
        }));
    }

    fn take(&mut self, piece: Option<Result<UploadItem, String>>) {
        match piece {
            Some(Ok(UploadItem::Chunk { offset, bytes })) => {
                // An empty chunk is a sign of life; many of them are still not free.
                self.batch_len += bytes.len().max(LEAST_COST);
                self.batch.push((offset, bytes));
            }
            Some(Ok(UploadItem::End { total_size, digest })) => {
                self.end = Some(UploadEnd::Complete { total_size, digest });
            }
            Some(Ok(UploadItem::Abort(problem))) => self.end = Some(UploadEnd::Abort(problem)),
            Some(Err(why)) => self.end = Some(UploadEnd::Broken(why)),
            // To a server, a reset stream looks as if it had ended: only a trailer is an end.
            None => {
                self.end = Some(UploadEnd::Broken("the upload ended without its trailer".into()))
            }
        }
    }

    fn job_done(&mut self, result: Result<(), UploadEnd>) -> WriteEvent {
        match result {
            Ok(()) => WriteEvent::Wrote,
            Err(end) => {
                self.batch.clear();
                WriteEvent::Ended(end)
            }
        }
    }
}

impl fmt::Debug for BatchWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reception({} bytes wait)", self.batch_len)
    }
}

impl Drop for BatchWriter {
    fn drop(&mut self) {
        // The connection may carry other uploads.
        self.brake.end_upload();
    }
}

/// The next piece. Only when all that has come is taken may the connection bring more: as much as
/// there is `room` for.
async fn next_piece(
    pieces: &mut UploadItems,
    brake: &ReadBudget,
    room: usize,
    stall: &mut Stall,
) -> Option<Result<UploadItem, String>> {
    poll_fn(|context| {
        let piece = pieces.poll_next_unpin(context);
        if piece.is_pending() {
            stall.pass();
            brake.set_budget(room);
        }
        piece
    })
    .await
}

/// Resolves at this time; never for `None`.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The job's result; for ever pending without a job.
async fn finished(
    job: &mut Option<JoinHandle<(ReceivedPartial, Result<(), UploadEnd>)>>,
) -> (ReceivedPartial, Result<(), UploadEnd>) {
    match job {
        None => std::future::pending().await,
        Some(job) => {
            job.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn no_more_than_a_batch_is_read_ahead_of_the_disk() {
        let chunk = || UploadItem::Chunk { offset: 0, bytes: Bytes::from_static(&[0; 1000]) };
        let pieces = stream::repeat_with(move || Ok(chunk()));
        let mut reception = BatchWriter::new(Box::pin(pieces), ReadBudget::default());
        let mut at_the_disk = None;
        for (batch_len, held) in [(5_000, 5_000), (2_000, 5_000), (6_500, 7_000)] {
            assert!(futures::poll!(pin!(reception.next(&mut at_the_disk, batch_len))).is_pending());
            assert_eq!(reception.batch_len, held);
        }
    }

    #[test]
    fn many_uploads_hold_no_more_than_a_few() {
        for n_running in 0..=80 {
            let held = n_running * batch_len(n_running);
            assert!(held <= BATCHES_LEN, "{n_running} uploads hold {held} bytes");
        }
        assert_eq!([0, 1, 5, 20].map(batch_len), [1 << 20, 1 << 20, 1 << 20, 256 << 10]);
        assert_eq!(batch_len(1000), CHUNK_LEN, "a whole chunk must fit");
    }

    #[tokio::test]
    async fn the_connection_may_bring_as_much_as_there_is_room_for() {
        let brake = ReadBudget::default();
        brake.set_budget(0);
        let one = stream::once(ready(Err("the first".to_owned())));
        let mut pieces: UploadItems = Box::pin(one.chain(stream::once(pending())));
        let mut stall = Stall::default();
        let holds =
            || poll_fn(|context| std::task::Poll::Ready(brake.poll_ready(context).is_pending()));
        assert!(next_piece(&mut pieces, &brake, 10, &mut stall).await.is_some());
        assert!(holds().await, "what has come must be taken first");
        let more = pin!(next_piece(&mut pieces, &brake, 10, &mut stall));
        assert!(futures::poll!(more).is_pending());
        brake.consume(9);
        assert!(!holds().await);
        brake.consume(9);
        assert!(holds().await);
    }
}
