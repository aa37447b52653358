//! Logs connections that speak the wrong protocol, and samples floods of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use filepull_core::human;
use tokio::time::Instant;
use tracing::{debug, info};

use super::acceptor::HandshakeError;

/// Minimum time between two log lines of one listener. The connections in between are counted.
const INTERVAL: Duration = Duration::from_secs(10);

/// Logs the failed handshakes of one listener. Clones share one sample.
#[derive(Clone, Debug)]
pub(crate) struct ProtocolLog(Arc<LogState>);

#[derive(Debug)]
struct LogState {
    listener: &'static str,
    sample: Mutex<ProtocolSample>,
}

#[derive(Debug, Default)]
struct ProtocolSample {
    logged: Option<Instant>,
    n_omitted: u64,
}

impl ProtocolLog {
    /// Creates the log of a listener; `listener` names its callers: agents or operators.
    pub(crate) fn new(listener: &'static str) -> Self {
        Self(Arc::new(LogState { listener, sample: Mutex::default() }))
    }

    /// Logs a handshake that failed.
    pub(crate) fn failed(&self, remote_addr: SocketAddr, error: &HandshakeError) {
        if let HandshakeError::Silent = error {
            let listener = self.0.listener;
            debug!(event = "connection.silent", listener, %remote_addr, "the peer sent nothing");
            return;
        }
        self.rejected(Some(remote_addr), &error.to_string());
    }

    /// Logs a peer that speaks TLS to a port with plain text.
    pub(crate) fn tls_to_plain(&self, remote_addr: Option<SocketAddr>) {
        let reason = "the peer speaks TLS, and this port speaks plain text";
        self.rejected(remote_addr, reason);
    }

    fn rejected(&self, remote_addr: Option<SocketAddr>, reason: &str) {
        let mut sample = self.0.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(omitted) = sample.admit(Instant::now()) else { return };
        drop(sample);
        let listener = self.0.listener;
        let remote_addr = remote_addr.map(|addr| addr.to_string());
        let reason = human::printable(reason, 255);
        info!(
            event = "connection.rejected",
            listener, remote_addr, reason, omitted, "connection rejected"
        );
    }
}

impl ProtocolSample {
    /// Returns how many lines were omitted since the last one. None if this one must be omitted too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.logged.is_some_and(|logged| now - logged < INTERVAL) {
            self.n_omitted += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.n_omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_and_a_number() {
        let mut sample = ProtocolSample::default();
        let start = Instant::now();
        let n_logged = (0..1000).filter(|_| sample.admit(start).is_some()).count();
        assert_eq!(n_logged, 1);
        assert_eq!(sample.admit(start + INTERVAL), Some(999));
    }
}
