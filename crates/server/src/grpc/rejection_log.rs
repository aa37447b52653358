//! Logs what the listener for agents rejects, and samples floods.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use filepull_core::fingerprint::Fingerprint;
use filepull_core::human;
use filepull_core::id::{ClientId, TransferId};
use filepull_proto::v1::{Error, ErrorCode};
use tokio::time::Instant;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::authentication::PeerRejection;

/// Maximum number of rejections logged in one second, and maximum number of alarms. The rest are counted.
const MAX_PER_SECOND: u32 = 20;

/// Minimum time between two log lines for a machine that uses the id of another one. It retries until
/// a person acts.
const ALARM_INTERVAL: Duration = Duration::from_mins(10);

/// Maximum number of machines whose last alarm is remembered. For more machines at once, only the
/// limit per second applies.
const MAX_ALARMS: usize = 1024;

/// Logs rejections. Clones share one sample.
#[derive(Clone, Debug, Default)]
pub(crate) struct RejectionLog(Arc<Mutex<RejectionSample>>);

#[derive(Debug, Default)]
struct RejectionSample {
    /// When each rejected agent instance was last logged as a duplicate.
    alarms: HashMap<Uuid, Instant>,
    since: Option<Instant>,
    n_logged: u32,
    /// Counted apart: a flood of strangers must not hide the alarm about a copied machine.
    n_alarms: u32,
    n_omitted: u64,
}

impl RejectionLog {
    /// Logs a session that was not admitted. `client` and `instance` are as the agent sent them. Returns
    /// whether it was logged.
    pub(crate) fn session(
        &self,
        client: &str,
        instance: &[u8],
        remote_addr: SocketAddr,
        rejected: &Error,
    ) -> bool {
        let is_duplicate = rejected.code() == ErrorCode::DuplicateId;
        let alarm = is_duplicate.then(|| Uuid::from_slice(instance).unwrap_or_default());
        let Some(omitted) = self.admit(alarm) else { return false };
        let code = rejected.code().as_str_name();
        let client = human::printable(client, 80);
        let reason = human::printable(&rejected.message, 512);
        if is_duplicate {
            error!(
                event = "client.duplicate_id", client, %remote_addr, reason, omitted,
                "two machines use one client id"
            );
        } else {
            info!(
                event = "session.rejected", client, %remote_addr, code, reason, omitted,
                "session rejected"
            );
        }
        true
    }

    /// Logs an agent that was rejected because of its key. `client` is as the agent sent it, or as its
    /// key says; empty if neither is known.
    pub(crate) fn peer(
        &self,
        client: &str,
        remote_addr: Option<SocketAddr>,
        rejected: &PeerRejection,
    ) {
        let Some(omitted) = self.admit(None) else { return };
        let client = human::printable(client, 80);
        let remote_addr = remote_addr.map(|addr| addr.to_string());
        let reason = rejected.keyword();
        warn!(event = "client.refused", client, remote_addr, reason, omitted, "agent refused");
    }

    /// Logs an agent that was not enrolled.
    pub(crate) fn enrolment(
        &self,
        client: &str,
        remote_addr: Option<SocketAddr>,
        rejected: &Error,
    ) {
        let Some(omitted) = self.admit(None) else { return };
        let client = human::printable(client, 80);
        let remote_addr = remote_addr.map(|addr| addr.to_string());
        let code = rejected.code().as_str_name();
        let reason = human::printable(&rejected.message, 512);
        warn!(
            event = "enrolment.rejected",
            client, remote_addr, code, reason, omitted, "enrolment rejected"
        );
    }

    /// Logs an rpc that broke the protocol before it named a client.
    pub(crate) fn rpc(&self, remote_addr: Option<SocketAddr>, status: &tonic::Status) {
        let Some(omitted) = self.admit(None) else { return };
        let remote_addr = remote_addr.map(|addr| addr.to_string());
        let reason = human::printable(status.message(), 512);
        info!(event = "rpc.rejected", remote_addr, reason, omitted, "rpc rejected");
    }

    /// Logs an upload that answers no order.
    pub(crate) fn upload(&self, id: TransferId, remote_addr: Option<SocketAddr>, reason: &str) {
        let Some(omitted) = self.admit(None) else { return };
        let remote_addr = remote_addr.map(|addr| addr.to_string());
        let reason = human::printable(reason, 512);
        info!(
            event = "upload.rejected", transfer = %id, remote_addr, reason, omitted,
            "upload rejected"
        );
    }

    fn admit(&self, alarm: Option<Uuid>) -> Option<u64> {
        let mut sample = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sample.admit(alarm, Instant::now())
    }
}

/// Logs a new key on record.
pub(crate) fn log_enrolled(
    client: &ClientId,
    key: &Fingerprint,
    pending: bool,
    remote_addr: Option<SocketAddr>,
) {
    let remote_addr = remote_addr.map(|addr| addr.to_string());
    info!(
        event = "client.enrolled", %client, fingerprint = %key, pending, remote_addr,
        "client enrolled"
    );
}

impl RejectionSample {
    /// Returns how many rejections were omitted since the last logged one. None if this one must be
    /// omitted too.
    fn admit(&mut self, alarm: Option<Uuid>, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| Duration::from_secs(1) <= now - since) {
            self.since = Some(now);
            self.n_logged = 0;
            self.n_alarms = 0;
        }
        let is_repeated = alarm.is_some_and(|instance| self.was_logged(instance, now));
        let n_logged = if alarm.is_some() { &mut self.n_alarms } else { &mut self.n_logged };
        if is_repeated || MAX_PER_SECOND <= *n_logged {
            self.n_omitted += 1;
            return None;
        }
        *n_logged += 1;
        if let Some(instance) = alarm {
            self.alarms.retain(|_, logged| now - *logged < ALARM_INTERVAL);
            if self.alarms.len() < MAX_ALARMS {
                self.alarms.insert(instance, now);
            }
        }
        Some(std::mem::take(&mut self.n_omitted))
    }

    fn was_logged(&self, instance: Uuid, now: Instant) -> bool {
        self.alarms.get(&instance).is_some_and(|&logged| now - logged < ALARM_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_sampled_and_counted() {
        let mut sample = RejectionSample::default();
        let start = Instant::now();
        let n_logged = (0..1000).filter(|_| sample.admit(None, start).is_some()).count();
        assert_eq!(n_logged, 20);
        assert_eq!(sample.admit(None, start + Duration::from_secs(1)), Some(980));
    }

    #[test]
    fn a_flood_does_not_hide_an_alarm() {
        let mut sample = RejectionSample::default();
        let start = Instant::now();
        for _ in 0..1000 {
            sample.admit(None, start);
        }
        assert!(sample.admit(Some(Uuid::from_u128(1)), start).is_some());
    }

    #[test]
    fn a_machine_that_uses_the_id_of_another_is_logged_once_in_ten_minutes() {
        let mut sample = RejectionSample::default();
        let start = Instant::now();
        let first = Uuid::from_u128(1);
        let second = Uuid::from_u128(2);
        let mut logged = |instance, seconds| {
            sample.admit(Some(instance), start + Duration::from_secs(seconds)).is_some()
        };
        assert!(logged(first, 0) && logged(second, 0));
        assert!(!logged(first, 22) && !logged(first, 599));
        assert!(logged(first, 600));
    }
}
