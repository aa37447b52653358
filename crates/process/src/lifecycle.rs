//! Tracks every task, and shuts them down in two steps.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts and tracks the tasks of a process, so that a shutdown can wait for all of them.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    drain: CancellationToken,
    tasks: TaskTracker,
}

/// Some tasks had to be stopped because the grace period was over.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{running} tasks still running after the grace period; {unresponsive} did not stop")]
pub struct ShutdownTimeout {
    /// Number of tasks that still ran after the grace period.
    pub running: usize,
    /// Number of these tasks that did not stop within 3 seconds after that.
    pub unresponsive: usize,
}

/// How long a stopped task may take to end. A task that takes longer waits for a disk that hangs.
const STOP_LIMIT: Duration = Duration::from_secs(3);

impl Lifecycle {
    /// Creates a lifecycle without tasks, neither draining nor stopped.
    pub fn new() -> Self {
        let stop = CancellationToken::new();
        Self { drain: stop.child_token(), stop, tasks: TaskTracker::new() }
    }

    /// Starts a task. The doc of the task states what ends it. Every task ends when
    /// [`stop`](Self::stop) is cancelled.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Returns a token that is cancelled when all tasks must end at once.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Returns a token that is cancelled when no task may start new work.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Waits up to `grace` for running work to finish, then stops the remaining tasks and waits for
    /// them. The second wait is bounded too, because a job that waits for a hung disk cannot be
    /// cancelled. Such a job leaves its files as a crash would.
    ///
    /// # Errors
    /// Some tasks had to be stopped.
    pub async fn shut_down(self, grace: Duration) -> Result<(), ShutdownTimeout> {
        self.drain.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_ok() {
            return Ok(());
        }
        let running = self.tasks.len();
        self.stop.cancel();
        let _ = timeout(STOP_LIMIT, self.tasks.wait()).await;
        Err(ShutdownTimeout { running, unresponsive: self.tasks.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_in_time_is_not_stopped() {
        let lifecycle = Lifecycle::new();
        let drain = lifecycle.drain().clone();
        lifecycle.spawn(async move { drain.cancelled().await });
        assert!(lifecycle.shut_down(Duration::from_secs(60)).await.is_ok());
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_stopped_and_counted() {
        let lifecycle = Lifecycle::new();
        let stop = lifecycle.stop().clone();
        lifecycle.spawn(async move { stop.cancelled().await });
        let timeout = lifecycle.shut_down(Duration::ZERO).await.unwrap_err();
        assert_eq!((timeout.running, timeout.unresponsive), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shutdown_does_not_wait_for_an_unresponsive_task() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(std::future::pending());
        let timeout = lifecycle.shut_down(Duration::ZERO).await.unwrap_err();
        assert_eq!((timeout.running, timeout.unresponsive), (1, 1));
    }
}
