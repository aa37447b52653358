//! Takes what a reader hands out to the network, at a pace, until somebody says stop.

use std::time::Instant;

use filepull_core::pace::Pace;
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::read::{ReadError, Reader, Step, Stopped};

/// The way from the thread of a reader into an upload. When the outbox is full the reader waits.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) outbox: mpsc::Sender<v1::UploadRequest>,
    pub(crate) pace: Option<Pace>,
    pub(crate) stop: CancellationToken,
}

impl Outlet {
    /// Runs `reader` to its end. It blocks, and belongs on a thread of its own.
    pub(crate) fn drive(mut self, reader: &Reader) -> Result<(), ReadError> {
        let runtime = Handle::current();
        reader.read(&mut |step| {
            // Not `blocking_send`, which would be deaf to `stop` while the network stands still.
            let taken = self.stop.clone().run_until_cancelled_owned(self.take(step));
            runtime.block_on(taken).unwrap_or(Err(Stopped))
        })
    }

    async fn take(&mut self, step: Step) -> Result<(), Stopped> {
        let Step::Send(kind) = step else { return Ok(()) };
        if let (Kind::Chunk(chunk), Some(pace)) = (&kind, &mut self.pace) {
            sleep(pace.wait_for(chunk.data.len() as u64, Instant::now())).await;
        }
        let request = v1::UploadRequest { kind: Some(kind) };
        self.outbox.send(request).await.map_err(|_| Stopped)
    }
}
