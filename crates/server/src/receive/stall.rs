//! What an upload does while the disk does not respond.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::read_budget::ReadBudget;

/// Maximum that all connections together may send while the disk stalls, in KiB. A ping is answered
/// only after everything sent before it has been read.
static BACKLOG: Semaphore = Semaphore::const_new(64 * 1024);
/// The default of STREAM_WINDOW: how far an agent sends ahead, in bytes.
const WINDOW_LEN: u64 = 16 << 20;

/// Whether the disk stalls now, or stalled after the connection was last read.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    is_now: bool,
    has_been: bool,
    /// Released once everything that arrived meanwhile has been consumed.
    backlog: Option<SemaphorePermit<'static>>,
}

impl Stall {
    /// Reads what the agent may send ahead, so that its pings are answered. If too many connections
    /// do so at once, this connection may be dropped, and the upload is resumed.
    pub(crate) fn begin(&mut self, n_expected: u64, budget: &ReadBudget) {
        self.is_now = true;
        self.has_been = true;
        let n_kib = n_expected.min(WINDOW_LEN).div_ceil(1024);
        if self.backlog.is_none() {
            let n_permits = u32::try_from(n_kib).unwrap_or(u32::MAX);
            self.backlog = BACKLOG.try_acquire_many(n_permits).ok();
        }
        if self.backlog.is_some() {
            budget.set_unlimited();
        }
    }

    /// The disk responds again.
    pub(crate) fn end(&mut self) {
        self.is_now = false;
    }

    /// Everything that arrived meanwhile has been consumed, and the connection is alive.
    pub(crate) fn pass(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_now(&self) -> bool {
        self.is_now
    }

    pub(crate) fn has_been(&self) -> bool {
        self.has_been
    }
}
