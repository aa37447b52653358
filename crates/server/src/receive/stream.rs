//! The items of one upload, read from its connection only as fast as they are consumed.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;

use filepull_core::file_digest::Blake3;
use filepull_core::problem::Problem;
use futures::{Stream, StreamExt as _};
use tokio::time::sleep;

use super::STALLS_AFTER;
use super::extent::ReceivedExtent;
use super::receipt::SignedReceipt;
use super::stall::Stall;
use crate::read_budget::ReadBudget;

/// What an agent sends after the header of an upload.
#[derive(Clone, Debug)]
pub(crate) enum UploadItem {
    /// The next bytes, or where they are.
    Extent(ReceivedExtent),
    /// The complete file has been sent.
    End(ReceivedTrailer),
    /// The agent cannot send the file.
    Abort(Problem),
}

/// The trailer of an upload.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedTrailer {
    /// The size of the file in bytes.
    pub total_size: u64,
    /// The digest of the bytes that the agent read.
    pub blake3: Blake3,
    /// The receipt, if the agent has a key; or why it is not valid.
    pub receipt: Result<Option<SignedReceipt>, String>,
}

/// The items of one upload. An error is the reason why the stream broke, as text.
pub(crate) type UploadItems = Pin<Box<dyn Stream<Item = Result<UploadItem, String>> + Send>>;

/// An upload before its partial is known. Reads nothing ahead.
pub(crate) struct UploadStream {
    items: UploadItems,
    budget: ReadBudget,
    stall: Stall,
}

impl UploadStream {
    pub(crate) fn new(items: UploadItems, budget: ReadBudget) -> Self {
        budget.begin_upload();
        Self { items, budget, stall: Stall::default() }
    }

    /// Waits for a disk job before the first byte is written. The connection must answer pings
    /// meanwhile, so `on_stall` is called when the disk stalls. The agent may send `n_expected`
    /// bytes.
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
        self.begin_stall(n_expected);
        on_stall();
        let done = work.await;
        self.end_stall();
        done
    }

    /// Returns the next item. The connection is read only when all received items are consumed, and
    /// then at most `capacity` bytes. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self, capacity: usize) -> Option<Result<UploadItem, String>> {
        poll_fn(|context| {
            let item = self.items.poll_next_unpin(context);
            if item.is_pending() {
                self.stall.pass();
                self.budget.set_budget(capacity);
            }
            item
        })
        .await
    }

    /// Returns whether the disk stalled, and the connection has not been read since.
    pub(crate) fn disk_stalled(&self) -> bool {
        self.stall.has_been()
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stall.is_now()
    }

    pub(crate) fn begin_stall(&mut self, n_expected: u64) {
        self.stall.begin(n_expected, &self.budget);
    }

    pub(crate) fn end_stall(&mut self) {
        self.stall.end();
    }
}

impl fmt::Debug for UploadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadStream")
    }
}

impl Drop for UploadStream {
    fn drop(&mut self) {
        // The connection may carry other uploads.
        self.budget.end_upload();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn the_connection_may_send_as_much_as_the_batch_can_hold() {
        let budget = ReadBudget::default();
        let one = stream::once(ready(Err("the first".to_owned())));
        let items: UploadItems = Box::pin(one.chain(stream::once(pending())));
        let mut upload = UploadStream::new(items, budget.clone());
        let is_stopped =
            || poll_fn(|context| std::task::Poll::Ready(budget.poll_ready(context).is_pending()));
        assert!(upload.next(10).await.is_some());
        assert!(is_stopped().await, "received items must be consumed first");
        assert!(futures::poll!(pin!(upload.next(10))).is_pending());
        budget.consume(9);
        assert!(!is_stopped().await);
        budget.consume(9);
        assert!(is_stopped().await);
    }
}
