//! How much space is left: asked for by every trigger, and by many at once.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::store::Store;

/// An answer that there is enough serves all who ask within this time: a thousand triggers at once
/// are no thousand jobs. Each upload asks anew before it begins.
const SERVES: Duration = Duration::from_millis(100);

/// A network file system may not answer at all.
const LIMIT: Duration = Duration::from_secs(1);

/// The last answer, and when it came.
#[derive(Debug, Default)]
pub(super) struct Space(Mutex<Option<(Instant, u64)>>);

impl Space {
    /// Free bytes, of which `enough` would do; none if the file system does not tell in time.
    pub(super) async fn free(&self, store: &Store, enough: u64) -> Option<u64> {
        timeout(LIMIT, self.ask(store, enough)).await.ok().flatten()
    }

    async fn ask(&self, store: &Store, enough: u64) -> Option<u64> {
        let mut last = self.0.lock().await;
        if let Some((at, free)) = *last
            && at.elapsed() < SERVES
            && enough <= free
        {
            return Some(free);
        }
        let store = store.clone();
        let free = spawn_blocking(move || store.free()).await.ok()?.ok()?;
        *last = Some((Instant::now(), free));
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_serves_those_who_ask_soon_after_it_unless_it_would_refuse_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let answered = |at| Space(Mutex::new(Some((at, 7))));
        let (now, hour) = (Instant::now(), Duration::from_hours(1));
        // However slow the machine, an hour has not passed.
        assert_eq!(answered(now + hour).free(&store, 7).await, Some(7));
        assert_ne!(answered(now - SERVES).free(&store, 7).await, Some(7));
        assert_ne!(answered(now + hour).free(&store, 8).await, Some(7));
    }
}
