//! The messages of a session about keys: new pins of the server, and a new key of this machine.
//!
//! Nothing is confirmed before it is durable. A crash at any moment loses nothing: pins are sent again
//! with each welcome, and an unfinished rotation continues in the next session.

use std::time::Duration;

use filepull_core::digest::Digest;
use filepull_core::fingerprint::Fingerprint;
use filepull_process::Lifecycle;
use filepull_proto::v1;
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_trust::{AgentKey, new_key_message};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::credentials::{Credentials, CredentialsError};
use crate::enrol::pins_of;
use crate::session::SessionEvent;
use crate::status_log::StatusLog;
use crate::uploads::Uploads;

/// How often a new key is sent until the server has accepted it.
const RESEND_INTERVAL: Duration = Duration::from_secs(10);

/// How soon the next session opens with a new key: the old one is valid until then.
const MAX_RECONNECT_WAIT: Duration = Duration::from_secs(5);

/// Handles the messages about keys of one session.
#[derive(Debug)]
pub(crate) struct TrustMessages {
    pub(crate) credentials: Credentials,
    pub(crate) session_id: String,
    pub(crate) outbox: mpsc::Sender<v1::AgentMessage>,
    pub(crate) events: mpsc::Sender<SessionEvent>,
    pub(crate) uploads: Uploads,
    pub(crate) status_log: StatusLog,
    pub(crate) lifecycle: Lifecycle,
    /// Cancelled at the end of the session, which ends every task of it.
    pub(crate) ended: CancellationToken,
    /// Cancelled when the server has accepted the new key; `None` if no rotation runs.
    pub(crate) rotation: Option<CancellationToken>,
}

impl TrustMessages {
    /// Handles what the welcome says, and continues an unfinished rotation.
    pub(crate) fn on_welcome(&mut self, pins: Option<&v1::CaPins>) {
        if let Some(pins) = pins {
            self.on_pins(pins);
        }
        if self.credentials.next_key().is_some() {
            self.rotate_key();
        }
    }

    /// Makes the pins durable, then confirms them.
    pub(crate) fn on_pins(&self, pins: &v1::CaPins) {
        if !self.credentials.is_enrolled() {
            tracing::debug!(event = "pins.ignored", "pins ignored: this machine is not enrolled");
            return;
        }
        let Some(pins) = pins_of(pins) else {
            self.status_log.warn("the server sent an invalid list of pins, which was ignored");
            return;
        };
        let number = self.credentials.next_pins_number();
        let credentials = self.credentials.clone();
        let outbox = self.outbox.clone();
        self.spawn(async move {
            let sha256 = pins.iter().map(|pin| pin.digest().as_bytes().to_vec().into()).collect();
            if run_blocking(move || credentials.store_pins(number, &pins)).await? {
                let stored = ToServer::PinsStored(v1::PinsStored { sha256 });
                let _ = outbox.send(v1::AgentMessage { kind: Some(stored) }).await;
            }
            Ok(())
        });
    }

    /// Makes a new key durable, and sends it until the server accepts it.
    pub(crate) fn rotate_key(&mut self) {
        if self.rotation.is_some() || self.credentials.key().is_none() {
            return;
        }
        let accepted = self.ended.child_token();
        self.rotation = Some(accepted.clone());
        let credentials = self.credentials.clone();
        let outbox = self.outbox.clone();
        let session_id = self.session_id.clone();
        self.spawn(async move {
            let key = run_blocking(move || credentials.prepare_next_key()).await?;
            let message = new_key(&key, &session_id);
            while !accepted.is_cancelled() {
                let kind = Some(ToServer::NewKey(message.clone()));
                if outbox.send(v1::AgentMessage { kind }).await.is_err() {
                    break;
                }
                accepted.run_until_cancelled(sleep(RESEND_INTERVAL)).await;
            }
            Ok(())
        });
    }

    /// Uses the new key from the next connection on, and requests one soon.
    pub(crate) fn on_key_accepted(&mut self, accepted: &v1::KeyAccepted) {
        let Ok(digest) = Digest::try_from(accepted.public_key_sha256.as_ref()) else { return };
        let rotation = self.rotation.take();
        let credentials = self.credentials.clone();
        let events = self.events.clone();
        let uploads = self.uploads.clone();
        let status_log = self.status_log.clone();
        self.spawn(async move {
            let key = Fingerprint::from(digest);
            if run_blocking(move || credentials.accept_next_key(key)).await? {
                status_log.info(&format!("this machine has a new key: {key}"));
                // Their connections use the old key.
                uploads.on_new_session();
                let drain = SessionEvent::Drain { min: Duration::ZERO, max: MAX_RECONNECT_WAIT };
                let _ = events.send(drain).await;
            }
            Ok(())
        });
        if let Some(rotation) = rotation {
            rotation.cancel();
        }
    }

    /// Runs a task that ends with the session at the latest. Its error is logged.
    fn spawn(&self, task: impl Future<Output = Result<(), CredentialsError>> + Send + 'static) {
        let ended = self.ended.clone();
        let status_log = self.status_log.clone();
        self.lifecycle.spawn(async move {
            if let Some(Err(error)) = ended.run_until_cancelled(task).await {
                status_log.error(&format!("a change of keys was not kept: {error}"));
            }
        });
    }
}

/// Runs `work`, which blocks, on another thread.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CredentialsError> + Send + 'static,
) -> Result<T, CredentialsError> {
    spawn_blocking(work).await.unwrap_or(Err(CredentialsError::Panicked))
}

fn new_key(key: &AgentKey, session_id: &str) -> v1::NewKey {
    v1::NewKey {
        public_key: key.public_key().to_vec().into(),
        signature: key.sign(&new_key_message(session_id, key.public_key())).into(),
    }
}
