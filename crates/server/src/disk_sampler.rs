//! Measures the disk for all readers: free bytes, free inodes, and whether files can be written.
//!
//! One task runs one measurement at a time, on one blocking thread. A reader gets the last result, or
//! waits for a newer one for a bounded time. So a file system that hangs occupies one thread, and does
//! not delay a reader for longer.

use std::time::Duration;

use filepull_core::human;
use filepull_process::Lifecycle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::{FreeSpace, Store};

/// Maximum interval between two measurements of free space.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a reader waits for a measurement of free space.
const SPACE_LIMIT: Duration = Duration::from_secs(1);

/// How long a reader waits until a file is written and synced.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// A handle on the results of the measurements.
#[derive(Clone, Debug)]
pub(crate) struct DiskSampler {
    wanted: watch::Sender<SampleRequests>,
    results: watch::Receiver<SampleResults>,
}

/// Why there is no current result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The measurement failed, for this reason.
    #[error("{0}")]
    Failed(String),
    /// The measurement has been running for this long.
    #[error("the disk has not answered for {}", human::span(*.0))]
    Unresponsive(Duration),
}

/// When a reader last requested a newer result.
#[derive(Clone, Copy, Debug, Default)]
struct SampleRequests {
    space: Option<Instant>,
    write: Option<Instant>,
}

/// The last result of each measurement, and when the running measurement started.
#[derive(Clone, Debug, Default)]
struct SampleResults {
    space: Option<Sample<FreeSpace>>,
    write: Option<Sample<()>>,
    running_since: Option<Instant>,
}

/// A result, and when its measurement started.
#[derive(Clone, Debug)]
struct Sample<T> {
    started_at: Instant,
    result: Result<T, String>,
}

impl<T: Clone> Sample<T> {
    fn since(sample: Option<&Self>, earliest: Instant) -> Option<Result<T, SampleError>> {
        let sample = sample.filter(|sample| earliest <= sample.started_at)?;
        Some(sample.result.clone().map_err(SampleError::Failed))
    }
}

impl DiskSampler {
    /// Starts the task, which ends when `lifecycle` drains or every handle is dropped.
    pub(crate) fn start(store: Store, lifecycle: &Lifecycle) -> Self {
        let wanted = watch::Sender::new(SampleRequests::default());
        let (sender, results) = watch::channel(SampleResults::default());
        let task = SamplerTask { store, wanted: wanted.subscribe(), results: sender };
        lifecycle.spawn(task.run(lifecycle.drain().clone()));
        Self { wanted, results }
    }

    /// Returns a result whose measurement started at most `max_age` ago, and measures again if there
    /// is none. With zero, the measurement starts after this call.
    ///
    /// # Errors
    /// The measurement failed or takes too long.
    pub(crate) async fn space(&self, max_age: Duration) -> Result<FreeSpace, SampleError> {
        let now = Instant::now();
        let earliest = now.checked_sub(max_age).unwrap_or(now);
        if let Some(result) = Sample::since(self.results.borrow().space.as_ref(), earliest) {
            return result;
        }
        self.wanted.send_modify(|wanted| wanted.space = Some(now));
        self.result(SPACE_LIMIT, |results| Sample::since(results.space.as_ref(), earliest)).await
    }

    /// Writes, syncs and removes a file in both folders.
    ///
    /// # Errors
    /// A step failed, or the disk takes too long.
    pub(crate) async fn check_writable(&self) -> Result<(), SampleError> {
        let now = Instant::now();
        self.wanted.send_modify(|wanted| wanted.write = Some(now));
        self.result(WRITE_LIMIT, |results| Sample::since(results.write.as_ref(), now)).await
    }

    /// Waits until free space has been measured again.
    pub(crate) async fn next_sample(&self) {
        let now = Instant::now();
        let newer = |results: &SampleResults| Sample::since(results.space.as_ref(), now).is_some();
        // When the task has ended, the last result stays.
        let _ = self.results.clone().wait_for(newer).await;
    }

    async fn result<T>(
        &self,
        limit: Duration,
        find: impl Fn(&SampleResults) -> Option<Result<T, SampleError>>,
    ) -> Result<T, SampleError> {
        let mut results = self.results.clone();
        let overdue = |results: &SampleResults| {
            results.running_since.map(|since| since.elapsed()).filter(|&running| limit <= running)
        };
        let answered =
            |results: &SampleResults| find(results).is_some() || overdue(results).is_some();
        let _ = timeout(limit, results.wait_for(answered)).await;
        let seen = results.borrow();
        let running = || seen.running_since.map_or(limit, |since| since.elapsed());
        find(&seen).unwrap_or_else(|| Err(SampleError::Unresponsive(running())))
    }
}

/// Runs the measurements and publishes their results.
#[derive(Debug)]
struct SamplerTask {
    store: Store,
    wanted: watch::Receiver<SampleRequests>,
    results: watch::Sender<SampleResults>,
}

impl SamplerTask {
    async fn run(mut self, drain: CancellationToken) {
        drain.clone().run_until_cancelled(self.sample()).await;
    }

    async fn sample(&mut self) {
        let mut timer = interval(INTERVAL);
        let mut written_at: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    return;
                },
                _ = timer.tick() => {}
            }
            let wanted = *self.wanted.borrow_and_update();
            let last = self.results.borrow().space.as_ref().map(|sample| sample.started_at);
            let outdated = last.is_none_or(|last| wanted.space.is_some_and(|at| last < at));
            if outdated || last.is_some_and(|last| INTERVAL <= last.elapsed()) {
                let sample = self.measure(Store::free_space).await;
                self.results.send_modify(|results| {
                    results.space = Some(sample);
                    results.running_since = None;
                });
            }
            if written_at < wanted.write {
                written_at = wanted.write;
                let sample = self.measure(Store::check_writable).await;
                self.results.send_modify(|results| {
                    results.write = Some(sample);
                    results.running_since = None;
                });
            }
        }
    }

    async fn measure<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Store) -> std::io::Result<T> + Send + 'static,
    ) -> Sample<T> {
        let started_at = Instant::now();
        self.results.send_modify(|results| results.running_since = Some(started_at));
        let store = self.store.clone();
        let result = match spawn_blocking(move || job(&store)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Sample { started_at, result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn sampler() -> (tempfile::TempDir, DiskSampler) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, DiskSampler::start(store, &Lifecycle::new()))
    }

    #[tokio::test]
    async fn a_result_serves_all_readers_until_it_is_too_old() {
        let (_folder, disk) = sampler();
        disk.space(HOUR).await.unwrap();
        let started_at = |disk: &DiskSampler| {
            disk.results.borrow().space.as_ref().map(|sample| sample.started_at).unwrap()
        };
        let first = started_at(&disk);
        disk.space(HOUR).await.unwrap();
        assert_eq!(started_at(&disk), first);
        let before = Instant::now();
        disk.space(Duration::ZERO).await.unwrap();
        assert!(before <= started_at(&disk));
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_written_is_reported_with_the_reason() {
        let (folder, disk) = sampler();
        let SampleError::Failed(reason) = disk.check_writable().await.unwrap_err() else {
            panic!()
        };
        assert!(reason.contains("No such file"), "{reason}");
        std::fs::create_dir(folder.path().join(crate::data_folder::RECORDS_FOLDER)).unwrap();
        assert_eq!(disk.check_writable().await, Ok(()));
    }

    #[tokio::test]
    async fn a_disk_that_has_not_answered_for_long_delays_no_reader() {
        let wanted = watch::Sender::new(SampleRequests::default());
        let running_since = Instant::now().checked_sub(Duration::from_secs(12));
        let (_sender, results) =
            watch::channel(SampleResults { running_since, ..SampleResults::default() });
        let disk = DiskSampler { wanted, results };
        let space = std::pin::pin!(disk.space(HOUR));
        let std::task::Poll::Ready(Err(error)) = futures::poll!(space) else {
            panic!("the reader waits");
        };
        assert_eq!(error.to_string(), "the disk has not answered for 12 s");
    }
}
