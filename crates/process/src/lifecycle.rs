//! Every task of a process, and the two words that end them.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The door through which every task is started, so that the end can wait for all of them.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// Drop what you are doing.
    stop: CancellationToken,
    /// Take no new work.
    drain: CancellationToken,
    tasks: TaskTracker,
}

/// Some tasks did not end by themselves in time and were stopped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{running} tasks still running after the grace period; {unresponsive} did not stop")]
pub struct ShutdownTimeout {
    /// How many.
    pub running: usize,
    /// How many of them had not even stopped when they were left behind.
    pub unresponsive: usize,
}

/// A task that was stopped and is still there after this time waits for a disk that hangs.
const STOP_LIMIT: Duration = Duration::from_secs(3);

impl Lifecycle {
    /// A process that runs.
    pub fn new() -> Self {
        let stop = CancellationToken::new();
        Self { drain: stop.child_token(), stop, tasks: TaskTracker::new() }
    }

    /// Starts a task. Its doc says what ends it; every one of them obeys [`stop`](Self::stop).
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Cancelled when everybody must drop what they are doing.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when nobody may begin anything new.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Lets running work end by itself for `grace`, then stops the rest and waits for it; but not
    /// for ever, because nobody can stop a job that the disk does not answer. What is left behind is
    /// as a crash would leave it.
    ///
    /// # Errors
    /// Says how many tasks were cut short.
    pub async fn shut_down(self, grace: Duration) -> Result<(), ShutdownTimeout> {
        self.drain.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_ok() {
            return Ok(());
        }
        let count = self.tasks.len();
        self.stop.cancel();
        let _ = timeout(STOP_LIMIT, self.tasks.wait()).await;
        Err(ShutdownTimeout { running: count, unresponsive: self.tasks.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_ends_in_time_is_not_cut_short() {
        let lifecycle = Lifecycle::new();
        let drain = lifecycle.drain().clone();
        lifecycle.spawn(async move { drain.cancelled().await });
        assert!(lifecycle.shut_down(Duration::from_secs(60)).await.is_ok());
    }

    #[tokio::test]
    async fn work_that_does_not_end_is_stopped_and_counted() {
        let lifecycle = Lifecycle::new();
        let stop = lifecycle.stop().clone();
        lifecycle.spawn(async move { stop.cancelled().await });
        let cut_short = lifecycle.shut_down(Duration::ZERO).await.unwrap_err();
        assert_eq!((cut_short.running, cut_short.unresponsive), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_cannot_be_stopped_is_left_behind() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(std::future::pending());
        let cut_short = lifecycle.shut_down(Duration::ZERO).await.unwrap_err();
        assert_eq!((cut_short.running, cut_short.unresponsive), (1, 1));
    }
}
