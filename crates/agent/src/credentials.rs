//! The key and the pins of this agent while it runs: on disk first, then in use.
//!
//! [`key_store`](crate::key_store) holds the files. This module decides what they mean at the start, and
//! keeps the files, the TLS configuration of the [`Dialer`] and the memory equal.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filepull_core::fingerprint::Fingerprint;
use filepull_core::invite::{Invite, Invitee};
use filepull_trust::{AgentKey, ServerTrust, TrustError, client_config};

use crate::config::Config;
use crate::dial::{Dialer, Security, ServerAddr};
use crate::key_store::{AgentIdentity, KeyStore, KeyStoreError};

/// A handle on the key and the identity of one agent. `Debug` shows no key.
#[derive(Clone, Debug)]
pub(crate) struct Credentials(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Dialer,
    /// More roots, if the server's certificate is publicly trusted.
    ca_file: Option<PathBuf>,
    /// `None` without a state folder: then there is no key.
    store: Option<KeyStore>,
    /// Held while a file is replaced, so that files and memory change in the same order.
    writing: Mutex<()>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    key: Option<Arc<AgentKey>>,
    next_key: Option<Arc<AgentKey>>,
    /// `None`: not enrolled.
    identity: Option<AgentIdentity>,
    /// The number of the last list of pins that was stored.
    pins_number: u64,
}

/// Why an agent cannot start with these files and settings, or a change cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file of the state folder.
    #[error(transparent)]
    Store(#[from] KeyStoreError),
    /// The roots of this machine.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// An invite, and no folder for the key.
    #[error(
        "the invite was not used, because there is no folder for the key of this machine: set STATE_DIR \
         to a folder that the agent may write"
    )]
    NoStateDir,
    /// An invite, and a folder that cannot be written.
    #[error("the invite was not used, because the key of this machine cannot be kept. {0}")]
    CannotEnrol(KeyStoreError),
    /// An enrolled machine, and an address with `http://`.
    #[error(
        "SERVER_ADDR requests plain text, but this machine is enrolled and never sends without TLS: \
         remove http://"
    )]
    PlainText,
    /// An invite for another client than the one that is enrolled.
    #[error(
        "this machine is enrolled as {enrolled}, but INVITE is for {invited}: remove INVITE, or set \
         another STATE_DIR to run a second agent"
    )]
    OtherClient {
        /// The id of this machine.
        enrolled: String,
        /// The id in the invite.
        invited: String,
    },
    /// An identity without a key.
    #[error(
        "STATE_DIR has identity.json, but no key: it was removed. To enrol this machine again, remove \
         identity.json, run `filepull invite ID --replace` on the server, and set INVITE"
    )]
    KeyMissing,
    /// A bug.
    #[error("internal error in the agent")]
    Panicked,
}

impl Credentials {
    /// Reads the files, makes a key if an invite needs one, and chooses how to dial. Returns the invite
    /// if it has to be used. Blocks.
    ///
    /// # Errors
    /// Only a person can fix it. The invite was not used.
    pub(crate) fn open(config: &Config) -> Result<(Self, Option<Invite>), CredentialsError> {
        let store = config.state_dir.as_deref().map(KeyStore::new);
        let identity = store.as_ref().map_or(Ok(None), KeyStore::identity)?;
        let invite = new_invite(config.invite.clone(), identity.as_ref())?;
        let key = match (&store, &invite) {
            (None, None) => None,
            (None, Some(_)) => return Err(CredentialsError::NoStateDir),
            (Some(store), None) => store.key()?,
            (Some(store), Some(_)) => {
                Some(require_key(store).map_err(CredentialsError::CannotEnrol)?)
            }
        };
        let has_identity = invite.is_some() || identity.is_some();
        if has_identity && config.servers.iter().any(ServerAddr::requests_plain_text) {
            return Err(CredentialsError::PlainText);
        }
        let security = first_security(config, identity.as_ref(), invite.as_ref(), key.as_ref())?;
        let source_addr = config.source_addr;
        let dialer =
            Dialer::new(config.servers.clone(), source_addr, config.proxy.clone(), security);
        let next_key = store.as_ref().map_or(Ok(None), KeyStore::next_key)?;
        let current = Mutex::new(Current {
            key: key.map(Arc::new),
            next_key: next_key.map(Arc::new),
            identity,
            pins_number: 0,
        });
        let ca_file = config.ca_file.clone();
        let writing = Mutex::default();
        Ok((Self(Arc::new(Inner { dialer, ca_file, store, writing, current })), invite))
    }

    /// Returns the dialer, which follows every change of the key and of the pins.
    pub(crate) fn dialer(&self) -> &Dialer {
        &self.0.dialer
    }

    /// Returns whether the server has this machine on record.
    pub(crate) fn is_enrolled(&self) -> bool {
        self.lock().identity.is_some()
    }

    /// Returns the key that the server has on record; `None` if this machine is not enrolled.
    pub(crate) fn key(&self) -> Option<Arc<AgentKey>> {
        let current = self.lock();
        current.key.clone().filter(|_| current.identity.is_some())
    }

    /// Returns the fingerprint of the key, enrolled or not.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.lock().key.as_ref().map(|key| key.fingerprint())
    }

    /// Returns the key of an unfinished rotation.
    pub(crate) fn next_key(&self) -> Option<Arc<AgentKey>> {
        self.lock().next_key.clone()
    }

    /// Makes the identity durable that the server has confirmed, and uses it. Blocks.
    pub(crate) fn enrol(&self, identity: AgentIdentity) -> Result<(), CredentialsError> {
        let Some(store) = &self.0.store else { return Err(CredentialsError::NoStateDir) };
        let _writing = self.start_writing();
        store.write_identity(&identity)?;
        self.lock().identity = Some(identity);
        self.update_security()
    }

    /// Returns to the identity of before, because a new invite was rejected. Returns `false` if there
    /// is none.
    pub(crate) fn return_to_identity(&self) -> Result<bool, CredentialsError> {
        let Some(identity) = self.lock().identity.clone() else { return Ok(false) };
        let security = self.security(&identity)?;
        let servers = identity.servers.into_iter().map(ServerAddr::from).collect();
        self.0.dialer.replace(servers, security);
        Ok(true)
    }

    /// Returns a number for a list of pins that the server sent: a later list has a higher one.
    pub(crate) fn next_pins_number(&self) -> u64 {
        let mut current = self.lock();
        current.pins_number += 1;
        current.pins_number
    }

    /// Makes a list of pins durable, and uses it. Returns `false` if a later list exists, or if this
    /// machine is not enrolled. Blocks.
    pub(crate) fn store_pins(
        &self,
        number: u64,
        pins: &[Fingerprint],
    ) -> Result<bool, CredentialsError> {
        let _writing = self.start_writing();
        let (newest, identity) = {
            let current = self.lock();
            (current.pins_number, current.identity.clone())
        };
        let (Some(store), Some(mut identity)) = (&self.0.store, identity) else { return Ok(false) };
        if number < newest {
            return Ok(false);
        }
        if identity.ca_pins != pins {
            identity.ca_pins = pins.to_vec();
            store.write_identity(&identity)?;
            self.lock().identity = Some(identity);
            self.update_security()?;
        }
        Ok(true)
    }

    /// Returns the next key, durable. Creates it if no rotation is unfinished. Blocks.
    pub(crate) fn prepare_next_key(&self) -> Result<Arc<AgentKey>, CredentialsError> {
        let Some(store) = &self.0.store else { return Err(CredentialsError::NoStateDir) };
        let _writing = self.start_writing();
        if let Some(next_key) = self.next_key() {
            return Ok(next_key);
        }
        let next_key = Arc::new(AgentKey::generate());
        store.write_next_key(&next_key)?;
        self.lock().next_key = Some(Arc::clone(&next_key));
        Ok(next_key)
    }

    /// Uses the next key from now on, if the server accepted this one. Returns `false` if it is another
    /// one. Blocks.
    pub(crate) fn accept_next_key(&self, accepted: Fingerprint) -> Result<bool, CredentialsError> {
        let Some(store) = &self.0.store else { return Ok(false) };
        let _writing = self.start_writing();
        let Some(next_key) = self.next_key().filter(|key| key.fingerprint() == accepted) else {
            return Ok(false);
        };
        store.promote_next_key()?;
        {
            let mut current = self.lock();
            current.key = Some(next_key);
            current.next_key = None;
        }
        self.update_security()?;
        Ok(true)
    }

    fn update_security(&self) -> Result<(), CredentialsError> {
        let Some(identity) = self.lock().identity.clone() else { return Ok(()) };
        self.0.dialer.replace_security(self.security(&identity)?);
        Ok(())
    }

    fn security(&self, identity: &AgentIdentity) -> Result<Security, CredentialsError> {
        let key = self.lock().key.clone();
        tls(&identity.ca_pins, self.0.ca_file.clone(), key.as_deref())
    }

    fn start_writing(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked for a moment only, never while a file is written.
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the invite if it has not enrolled this machine yet.
fn new_invite(
    invite: Option<Invite>,
    identity: Option<&AgentIdentity>,
) -> Result<Option<Invite>, CredentialsError> {
    let (Some(invite), Some(identity)) = (&invite, identity) else { return Ok(invite) };
    if invite.secret().hash() == identity.invite {
        return Ok(None);
    }
    match invite.invitee() {
        Invitee::Client(client) if *client != identity.client => {
            Err(CredentialsError::OtherClient {
                enrolled: identity.client.to_string(),
                invited: client.to_string(),
            })
        }
        Invitee::Client(_) | Invitee::Group(_) => Ok(Some(invite.clone())),
    }
}

/// Returns the key, durable, before any secret is sent.
fn require_key(store: &KeyStore) -> Result<AgentKey, KeyStoreError> {
    store.prepare()?;
    if let Some(key) = store.key()? {
        return Ok(key);
    }
    let key = AgentKey::generate();
    store.write_key(&key)?;
    Ok(key)
}

fn first_security(
    config: &Config,
    identity: Option<&AgentIdentity>,
    invite: Option<&Invite>,
    key: Option<&AgentKey>,
) -> Result<Security, CredentialsError> {
    let pins = match (invite, identity) {
        (Some(invite), _) => Some(invite.ca_pins()),
        (None, Some(identity)) => Some(identity.ca_pins.as_slice()),
        (None, None) => None,
    };
    let ca_file = config.ca_file.clone();
    match pins {
        Some(_) if key.is_none() => Err(CredentialsError::KeyMissing),
        Some(pins) => tls(pins, ca_file, key),
        None if config.servers.iter().all(ServerAddr::uses_tls) => tls(&[], ca_file, None),
        None => Ok(Security::PlainText),
    }
}

fn tls(
    pins: &[Fingerprint],
    ca_file: Option<PathBuf>,
    key: Option<&AgentKey>,
) -> Result<Security, CredentialsError> {
    let trust = if pins.is_empty() {
        ServerTrust::Roots { ca_file }
    } else {
        ServerTrust::Pins(pins.to_vec())
    };
    Ok(Security::Tls(client_config(&trust, key)?))
}
