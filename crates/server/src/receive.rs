//! Writes the items of an upload into its partial.
//!
//! One blocking job writes at a time, and the items that arrive meanwhile are the next batch. So
//! batches are small on a slow connection and large on a fast one. While a batch waits for a slow
//! disk, nothing more is read from the connection: the agent slows down and memory stays bounded.

mod extent;
mod receipt;
mod received_partial;
mod stall;
mod stream;

use filepull_core::CHUNK_LEN;
use filepull_core::problem::Problem;
use filepull_core::receive::ReceiveError;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Duration, Instant, sleep_until};

use crate::store::StoreError;
pub(crate) use extent::{ReceivedContent, ReceivedExtent};
pub(crate) use receipt::SignedReceipt;
pub(crate) use received_partial::ReceivedPartial;
#[cfg(test)]
pub(crate) use stream::UploadItems;
pub(crate) use stream::{ReceivedTrailer, UploadItem, UploadStream};

/// How an upload ended.
#[derive(Debug)]
pub(crate) enum UploadEnd {
    /// The agent sent the trailer: it has sent everything.
    Complete(ReceivedTrailer),
    /// The agent could not send the file.
    Abort(Problem),
    /// The stream broke, or ended without a trailer. The reason is a text.
    Broken(String),
    /// An extent was not the next one.
    Bad(ReceiveError),
    /// An extent broke another rule of the protocol. The reason is a text.
    Violation(String),
    /// The base no longer has the bytes that an extent copies. The reason is a text.
    BaseChanged(String),
    /// The disk failed: the partial must not be used any more.
    Disk(StoreError),
}

/// What [`BatchWriter::next`] waited for.
#[derive(Debug)]
pub(crate) enum WriteEvent {
    /// A batch has been written. No job runs, so [`BatchWriter::partial`] returns the partial.
    Wrote,
    /// The disk job has taken too long, and continues.
    DiskStalled,
    /// The upload has ended, and everything that arrived has been written.
    Ended(UploadEnd),
}

/// Enough for one large write. While it runs, at most as many bytes are read from the connection.
const BATCH_LEN: usize = 1024 * 1024;
/// Maximum for all waiting batches, and for all that are being written. Larger batches make one upload
/// faster, but hardly many uploads. The buffers of direct writes have 2 MiB more (`store/buffers.rs`).
const BATCHES_LEN: usize = 4 * BATCH_LEN;

/// Returns the maximum length in bytes of one batch while `n_running` uploads run: whole chunks.
pub(crate) fn batch_len(n_running: usize) -> usize {
    let len = (BATCHES_LEN / n_running.max(1)).clamp(CHUNK_LEN, BATCH_LEN);
    len - len % CHUNK_LEN
}

/// Maximum work of one batch, as a number of bytes to hash and to write. Holes, copies and compressed
/// bytes need little memory, and a job must leave time for acks, checkpoints and the stall timer.
const MAX_WORK: u64 = 8 * 1024 * 1024;

/// A disk that works longer on one job has stalled. By then, the agent has not waited too long for
/// the answer to an HTTP/2 ping.
const STALLS_AFTER: Duration = Duration::from_secs(5);

/// Writes one upload into its partial.
pub(crate) struct BatchWriter {
    stream: UploadStream,
    batch: Vec<ReceivedExtent>,
    /// Memory of the batch in bytes.
    batch_len: usize,
    /// Work of the batch, as a number of bytes.
    batch_work: u64,
    /// None while a job writes to it.
    partial: Option<ReceivedPartial>,
    job: Option<WriteJob>,
    end: Option<UploadEnd>,
    /// When the current job counts as stalled.
    stalls_at: Option<Instant>,
    /// How many bytes the agent may still send.
    n_expected: u64,
}

type WriteJob = JoinHandle<(ReceivedPartial, Result<(), UploadEnd>)>;

impl BatchWriter {
    pub(crate) fn new(stream: UploadStream, partial: ReceivedPartial) -> Self {
        Self {
            stream,
            batch: Vec::new(),
            batch_len: 0,
            batch_work: 0,
            partial: Some(partial),
            job: None,
            end: None,
            stalls_at: None,
            n_expected: 0,
        }
    }

    /// Waits for the next event, and reads a batch of at most `batch_len` bytes ahead meanwhile.
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self, batch_len: usize) -> WriteEvent {
        loop {
            if self.batch.is_empty()
                && self.job.is_none()
                && let Some(end) = self.end.take()
            {
                return WriteEvent::Ended(end);
            }
            let capacity = batch_len.saturating_sub(self.batch_len);
            let has_capacity = 0 < capacity && self.batch_work < MAX_WORK;
            let takes_more = self.end.is_none() && has_capacity && !self.stream.is_stalled();
            tokio::select! {
                // Items that have arrived join the batch first: a job costs two thread switches.
                biased;
                item = self.stream.next(capacity), if takes_more => self.take(item),
                () = std::future::ready(()), if self.partial.is_some() && !self.batch.is_empty() => {
                    self.start_job();
                }
                (partial, result) = finished(&mut self.job) => {
                    return self.job_done(partial, result);
                }
                () = sleep_until_some(self.stalls_at) => {
                    self.stalls_at = None;
                    self.stream.begin_stall(self.n_expected);
                    return WriteEvent::DiskStalled;
                }
            }
        }
    }

    /// Returns whether a job writes: the agent waits for this server's disk.
    pub(crate) fn is_writing(&self) -> bool {
        self.job.is_some()
    }

    /// Returns whether the disk stalled, and the connection has not been read since.
    pub(crate) fn disk_stalled(&self) -> bool {
        self.stream.disk_stalled()
    }

    /// Returns the partial; none while a job writes to it.
    pub(crate) fn partial(&self) -> Option<&ReceivedPartial> {
        self.partial.as_ref()
    }

    /// Waits for a running job, drops the items that are not written, and returns the partial.
    ///
    /// # Errors
    /// The job failed: the partial must not be used any more.
    pub(crate) async fn finish(mut self) -> Result<ReceivedPartial, StoreError> {
        if let Some(partial) = self.partial {
            return Ok(partial);
        }
        match finished(&mut self.job).await {
            (_, Err(UploadEnd::Disk(error))) => Err(error),
            // A rejected extent leaves the partial intact.
            (partial, _) => Ok(partial),
        }
    }

    fn start_job(&mut self) {
        let Some(mut partial) = self.partial.take() else { return };
        let batch = std::mem::take(&mut self.batch);
        self.batch_len = 0;
        self.batch_work = 0;
        self.stalls_at = Some(Instant::now() + STALLS_AFTER);
        self.n_expected = partial.n_missing();
        self.job = Some(spawn_blocking(move || {
            let result = partial.write(&batch);
            (partial, result)
        }));
    }

    fn job_done(&mut self, partial: ReceivedPartial, result: Result<(), UploadEnd>) -> WriteEvent {
        self.job = None;
        self.stalls_at = None;
        self.stream.end_stall();
        self.partial = Some(partial);
        match result {
            Ok(()) => WriteEvent::Wrote,
            Err(end) => {
                self.batch.clear();
                WriteEvent::Ended(end)
            }
        }
    }

    fn take(&mut self, item: Option<Result<UploadItem, String>>) {
        match item {
            Some(Ok(UploadItem::Extent(extent))) => {
                self.batch_len += extent.memory();
                self.batch_work = self.batch_work.saturating_add(extent.work());
                self.batch.push(extent);
            }
            Some(Ok(UploadItem::End(trailer))) => self.end = Some(UploadEnd::Complete(trailer)),
            Some(Ok(UploadItem::Abort(problem))) => self.end = Some(UploadEnd::Abort(problem)),
            Some(Err(reason)) => self.end = Some(UploadEnd::Broken(reason)),
            // A server cannot distinguish a reset stream from an ended one: only a trailer ends an
            // upload.
            None => {
                self.end = Some(UploadEnd::Broken("the upload ended without its trailer".into()));
            }
        }
    }
}

/// Sleeps until this time; forever for `None`.
pub(crate) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns the result of the job. Waits forever without a job.
async fn finished(job: &mut Option<WriteJob>) -> (ReceivedPartial, Result<(), UploadEnd>) {
    match job {
        None => std::future::pending().await,
        Some(job) => {
            job.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytes::Bytes;
    use futures::stream;

    use super::*;
    use crate::read_budget::ReadBudget;

    /// A writer whose job never ends, and an agent that sends this content again and again.
    fn blocked_writer(content: ReceivedContent) -> BatchWriter {
        let extent = move || ReceivedExtent { offset: 0, content: content.clone() };
        let items = stream::repeat_with(move || Ok(UploadItem::Extent(extent())));
        BatchWriter {
            stream: UploadStream::new(Box::pin(items), ReadBudget::default()),
            batch: Vec::new(),
            batch_len: 0,
            batch_work: 0,
            partial: None,
            job: None,
            end: None,
            stalls_at: None,
            n_expected: 0,
        }
    }

    #[tokio::test]
    async fn no_more_than_a_batch_is_read_ahead_of_the_disk() {
        let bytes = Bytes::from_static(&[0; 1000]);
        let mut writer = blocked_writer(ReceivedContent::Data(bytes));
        for (batch_len, expected) in [(5_000, 5_000), (2_000, 5_000), (6_500, 7_000)] {
            assert!(futures::poll!(pin!(writer.next(batch_len))).is_pending());
            assert_eq!(writer.batch_len, expected);
        }
    }

    #[tokio::test]
    async fn a_batch_of_short_messages_has_a_bounded_work_too() {
        let mib = 1024 * 1024;
        for content in [
            ReceivedContent::Hole { len: mib },
            ReceivedContent::Hole { len: u64::MAX },
            ReceivedContent::Copy { base_offset: 0, len: mib },
            ReceivedContent::Copy { base_offset: 0, len: 1 },
            ReceivedContent::Zstd { len: CHUNK_LEN, encoded: Bytes::from_static(&[0; 10]) },
        ] {
            let mut writer = blocked_writer(content);
            assert!(futures::poll!(pin!(writer.next(BATCH_LEN))).is_pending());
            assert!(writer.batch.len() <= 128, "{} extents", writer.batch.len());
        }
    }

    #[test]
    fn many_uploads_hold_no_more_than_a_few() {
        for n_running in 0..=64 {
            let total = n_running * batch_len(n_running);
            assert!(total <= BATCHES_LEN, "{n_running} uploads hold {total} bytes");
        }
        assert_eq!([0, 1, 4, 20].map(batch_len), [1 << 20, 1 << 20, 1 << 20, 192 << 10]);
        assert_eq!(batch_len(1000), CHUNK_LEN, "a whole chunk must fit");
    }
}
