//! The part of a session that keeps its trust current: the pins that the agent stores, and its next key.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use filepull_core::backoff::Backoff;
use filepull_core::digest::Digest;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::invite::MAX_PINS;
use filepull_proto::v1::{NewKey, PinsStored};
use filepull_trust::verify_signature;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::client::ClientKey;
use crate::records::Records;
use crate::registry::{Message, SessionGuard};
use crate::tls::CaPins;

/// Maximum number of messages about keys and pins of one session that cause a write. An agent sends one
/// for each change.
const MAX_WRITES: u32 = 100;

/// How long a write may take. A session that waits longer for the disk would look dead.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// How long an agent may wait before it dials again with its new key.
const USE_NEW_KEY_WITHIN: Duration = Duration::from_secs(2);

/// What is signed with a new key begins with this text (see `NewKey` in the protocol).
const NEW_KEY_CONTEXT: &[u8] = b"filepull new key\0";

/// Keeps the keys and pins of one session current.
#[derive(Debug)]
pub(crate) struct KeyExchange {
    records: Records,
    /// The current pins of the server.
    pub(crate) ca_pins: CaPins,
    /// The pins that the agent has stored, as far as they are on record.
    stored: Vec<Fingerprint>,
    /// When the agent is asked for a new key. None: it has no key, or was asked already.
    rotate_at: Option<DateTime<Utc>>,
    n_writes: u32,
}

impl KeyExchange {
    /// `key`: the key on record when the session opened. An agent is asked for a new one when its key is
    /// older than `max_age`.
    pub(crate) fn new(
        records: Records,
        ca_pins: CaPins,
        key: Option<&ClientKey>,
        max_age: Duration,
    ) -> Self {
        // Up to a tenth earlier, so that a fleet that was enrolled at once does not rotate at once.
        let earlier = max_age.mul_f64(1.0 - 0.1 * fastrand::f64());
        let age = TimeDelta::from_std(earlier).unwrap_or(TimeDelta::MAX);
        Self {
            records,
            ca_pins,
            stored: key.map(|key| key.pins.clone()).unwrap_or_default(),
            rotate_at: key.and_then(|key| key.rotated_at.checked_add_signed(age)),
            n_writes: 0,
        }
    }

    /// Requests a new key, if the key is too old. Called with each heartbeat.
    pub(crate) fn rotate_if_old(&mut self, guard: &SessionGuard) {
        if self.rotate_at.is_some_and(|at| at <= Utc::now())
            && guard.session.send(Message::RotateKey).is_ok()
        {
            self.rotate_at = None;
        }
    }

    /// Records the pins that the agent has stored.
    pub(crate) async fn pins_stored(&mut self, guard: &SessionGuard, stored: &PinsStored) {
        let Some(key) = guard.session.key else { return };
        let pins: Option<Vec<Fingerprint>> = stored.sha256.iter().map(fingerprint).collect();
        let Some(pins) = pins.filter(|pins| pins.len() <= MAX_PINS && *pins != self.stored) else {
            return;
        };
        if self.may_write() {
            let saved = self.records.set_pins(&guard.client, &key, &pins);
            match timeout(WRITE_LIMIT, saved).await {
                Ok(Ok(())) => self.stored = pins,
                Ok(Err(error)) => log_failed(&error),
                Err(limit) => log_failed(&limit),
            }
        }
    }

    /// Records the next key of the agent, if the agent proves that it has the key. The agent gets its
    /// answer once the key is durable, and then dials again with it.
    pub(crate) async fn new_key(&mut self, guard: &SessionGuard, new_key: &NewKey) {
        let Some(key) = guard.session.key else { return };
        let session_id = guard.session.id.to_string();
        let message =
            [NEW_KEY_CONTEXT, session_id.as_bytes(), b"\0", new_key.public_key.as_ref()].concat();
        if verify_signature(&new_key.public_key, &message, &new_key.signature).is_err() {
            warn!(event = "key.rejected", "the signature of a new key is not valid");
            return;
        }
        if !self.may_write() {
            return;
        }
        let next = Fingerprint::of_public_key(&new_key.public_key);
        let saved = self.records.set_next_key(&guard.client, &key, &next);
        match timeout(WRITE_LIMIT, saved).await {
            Ok(Ok(true)) => {
                info!(event = "key.accepted", fingerprint = %next, "the next key is on record");
                // An agent with a full outbox sends its key again.
                if guard.session.send(Message::KeyAccepted(next)).is_ok() {
                    let soon = Message::Drain { min: Backoff::FLOOR, max: USE_NEW_KEY_WITHIN };
                    let _ = guard.session.send(soon);
                }
            }
            Ok(Ok(false)) => warn!(
                event = "key.rejected", fingerprint = %next,
                "the new key belongs to another client, or is the current key"
            ),
            Ok(Err(error)) => log_failed(&error),
            Err(limit) => log_failed(&limit),
        }
    }

    fn may_write(&mut self) -> bool {
        self.n_writes += 1;
        self.n_writes <= MAX_WRITES
    }
}

fn fingerprint(bytes: &Bytes) -> Option<Fingerprint> {
    Digest::try_from(bytes.as_ref()).ok().map(Fingerprint::from)
}

fn log_failed(error: &impl std::error::Error) {
    error!(event = "records.failed", %error, "cannot record the keys of an agent");
}
