//! Reads one download from the disk, slowly, and compares it with its record.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use filepull_core::human;
use filepull_core::transfer::{Download, Transfer};
use tokio::sync::oneshot;

use crate::records::DownloadState;
use crate::store::Store;
use crate::verify;

/// Maximum rate, in bytes per second: 225 GiB an hour, and a few percent of one core. A disk that is
/// slower than twice this rate is used at most half of the time.
const RATE: u64 = 64 << 20;

/// The lowest priority of a thread. Linux derives from it the lowest best-effort priority of its reads
/// (`man 2 ioprio_set`), which some I/O schedulers respect.
const LOWEST_PRIORITY: i32 = 19;

/// The name of the thread in `top -H`.
const THREAD_NAME: &str = "scrubber";

/// What a reading has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) state: DownloadState,
    /// Why the download is damaged; empty otherwise.
    pub(crate) reason: String,
}

impl Reading {
    fn of(state: DownloadState) -> Self {
        Self { state, reason: String::new() }
    }

    fn damaged(reason: String) -> Self {
        Self { state: DownloadState::Damaged, reason }
    }
}

/// Reads the download of a transfer. Returns none if this process lacks a thread or a file
/// descriptor for it. If the future is dropped, the reading ends.
pub(crate) async fn read(store: &Store, transfer: &Transfer) -> Option<Reading> {
    let download = transfer.download()?.clone();
    let transfer = transfer.clone();
    let store = store.clone();
    let (stop, stopped) = mpsc::channel::<()>();
    let (sender, result) = oneshot::channel();
    let job = move || {
        // Only this thread gets the priority. Without it the rate is bounded too.
        let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
        let mut since = Instant::now();
        let reading = inspect(&store, &transfer, &download, &mut |len_bytes| {
            let pause = pause_after(len_bytes, since.elapsed());
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the server stops"));
                }
            }
            since = Instant::now();
            Ok(())
        });
        let _ = sender.send(reading); // fails if the future was dropped
    };
    // A thread of its own: a thread of the pool would keep the priority, and a disk that hangs does
    // not take one from the pool.
    std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(job).ok()?;
    let reading = result.await.ok().flatten();
    drop(stop);
    reading
}

/// Compares a download with its record. `on_read` is called with the number of bytes after each
/// block.
fn inspect(
    store: &Store,
    transfer: &Transfer,
    download: &Download,
    on_read: &mut impl FnMut(u64) -> io::Result<()>,
) -> Option<Reading> {
    let file = match store.find_download(&transfer.client, &download.name) {
        Ok(Some(file)) => file,
        Ok(None) => return Some(Reading::of(DownloadState::Deleted)),
        Err(error) if error.is_out_of_descriptors() => return None,
        Err(error) => return Some(Reading::damaged(human::printable(&human::chain(&error), 500))),
    };
    let Err((_, reason)) = verify::compare(&file, download, on_read) else {
        return Some(Reading::of(DownloadState::Stored));
    };
    // A file that was removed meanwhile may have been overwritten first.
    let is_deleted = store.has_download(&transfer.client, &download.name).is_ok_and(|found| !found);
    Some(if is_deleted { Reading::of(DownloadState::Deleted) } else { Reading::damaged(reason) })
}

/// Returns how long to wait after a block that took `spent`.
fn pause_after(len_bytes: u64, spent: Duration) -> Duration {
    let nanos = u128::from(len_bytes) * 1_000_000_000 / u128::from(RATE);
    let least = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    least.saturating_sub(spent).max(spent)
}

#[cfg(test)]
mod tests;
