//! How many connections of agents fit: each takes a descriptor, and files need descriptors too.

use std::sync::Arc;

use filepull_process::open_files;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// What a server is made for. With room for fewer, somebody should know before a client is missing.
const FLEET: usize = 10_000;

/// Kept back from the agents, unless it were more than half: listeners, records, the files of
/// running transfers, operators. A thousand idle connections must not fail a transfer.
const OWN: usize = 512;

/// Should the system not tell its limit: what most begin with.
const USUAL_LIMIT: u64 = 1024;

/// Room for the connections of agents.
#[derive(Debug)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    /// Somebody has waited for a place since there was more than one.
    was_said: bool,
}

/// One connection's share of the room, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

impl Room {
    /// Raises the limit of open files of this process as far as the system allows, and says so if
    /// that is not far.
    pub(crate) fn make() -> Self {
        let open_files = open_files::raise_limit().unwrap_or_else(|error| {
            warn!(event = "open-files.failed", %error, "the limit of open files cannot be raised");
            USUAL_LIMIT
        });
        let places = places(open_files);
        if places < FLEET {
            warn!(event = "open-files.few", open_files, "{}", few(places));
        } else {
            debug!(event = "open-files", open_files, places, "room for agents");
        }
        Self { places: Arc::new(Semaphore::new(places)), was_said: false }
    }

    /// Waits until there is a place. A connection that waits for it stays in the backlog.
    pub(crate) async fn place(&mut self) -> Place {
        let is_full = self.places.available_permits() == 0;
        if is_full && !self.was_said {
            warn!(event = "open-files.used-up", "no agent can connect until another one leaves");
        }
        // Not again for each place that is given back and taken at once.
        self.was_said = is_full;
        let place = Arc::clone(&self.places).acquire_owned().await;
        Place(place.expect("this semaphore is never closed"))
    }
}

/// At rest each client takes one place; in the minute after it has sent a file, two.
fn places(open_files: u64) -> usize {
    let open_files = usize::try_from(open_files).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    open_files - OWN.min(open_files / 2)
}

fn few(places: usize) -> String {
    format!(
        "only about {places} clients fit, because this process may open so few files; others \
         cannot connect. Allow more: LimitNOFILE=65536 in a systemd unit, \"ulimit -n 65536\" in \
         a shell, ulimits: nofile: 65536 in a compose file"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_needs_itself_is_kept_back() {
        assert_eq!(places(65_536), 65_024);
        assert_eq!(places(1024), 512);
        assert_eq!(places(64), 32);
        assert!(FLEET < places(u64::MAX));
    }
}
