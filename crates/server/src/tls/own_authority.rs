//! The server's own certificate authority: issues the certificate of the listener for agents, and follows
//! the rotation. Each change is durable before agents see it.

use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use filepull_core::fingerprint::Fingerprint;
use filepull_trust::{AuthorityError, CertificateAuthority};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::CaPins;
use super::acceptor::Alpn;
use super::authority_folder::{AUTHORITY_NAME, AuthorityFolder, FolderError, StateOnDisk};
use super::certificate::{PresentError, ServerCertificate, must_renew, own_validity};
use super::rotation::{Rotation, RotationState, StepError};

/// The authorities that are in use.
type Authorities = Rotation<Arc<CertificateAuthority>>;

/// A handle on the own authority; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct OwnAuthority(Arc<OwnState>);

#[derive(Debug)]
struct OwnState {
    folder: AuthorityFolder,
    /// The names and addresses in the certificate. Only agents that use the system's roots check them.
    names: Vec<String>,
    /// Locked for the whole of a change, so that changes follow each other.
    authorities: Mutex<Authorities>,
    view: watch::Sender<AuthorityView>,
    pins: watch::Sender<Arc<[Fingerprint]>>,
    presented: watch::Sender<Arc<ServerCertificate>>,
}

/// The state of the rotation, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthorityView {
    pub(crate) state: RotationState,
    /// When the state was entered.
    pub(crate) since: DateTime<Utc>,
    /// When the successor was announced. None if the state is steady.
    pub(crate) announced_at: Option<DateTime<Utc>>,
    pub(crate) current: AuthorityFacts,
    pub(crate) next: Option<AuthorityFacts>,
    pub(crate) previous: Option<AuthorityFacts>,
}

/// What operators see of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AuthorityFacts {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) not_after: SystemTime,
}

/// Why the authority cannot be used, or its state cannot change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnAuthorityError {
    /// The step does not follow the current state.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The files of the authority are damaged, or cannot be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A certificate cannot be created.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] AuthorityError),
    /// The certificate cannot be presented.
    #[error("cannot present the certificate")]
    Present(#[from] PresentError),
    /// The process stops, or the work panicked.
    #[error("the work on the authority was stopped")]
    Stopped,
}

/// A step of the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RotationStep {
    Announce,
    Switch,
    Retire,
}

impl OwnAuthority {
    /// Opens the authority in `folder`, creates it if there is none, and issues a certificate.
    pub(crate) async fn open(
        folder: AuthorityFolder,
        names: Vec<String>,
        now: SystemTime,
    ) -> Result<Self, OwnAuthorityError> {
        let opened = spawn_blocking(move || {
            let (state, authorities) = folder.open()?;
            let presented = issue(&folder, &authorities, &names, now)?;
            let view = view_of(&authorities, state.since, state.announced_at);
            Ok::<_, OwnAuthorityError>((folder, names, view, authorities, presented))
        });
        let (folder, names, view, authorities, presented) =
            opened.await.map_err(|_| OwnAuthorityError::Stopped)??;
        Ok(Self(Arc::new(OwnState {
            folder,
            names,
            view: watch::Sender::new(view),
            pins: watch::Sender::new(pins_of(&authorities)),
            authorities: Mutex::new(authorities),
            presented: watch::Sender::new(Arc::new(presented)),
        })))
    }

    /// Returns the pins for agents and invites, which follow the rotation.
    pub(crate) fn pins(&self) -> CaPins {
        CaPins::new(self.0.pins.subscribe())
    }

    /// Returns the certificate of the listener, which follows renewals and the rotation.
    pub(crate) fn presented(&self) -> watch::Receiver<Arc<ServerCertificate>> {
        self.0.presented.subscribe()
    }

    /// Returns the state of the rotation.
    pub(crate) fn view(&self) -> AuthorityView {
        self.0.view.borrow().clone()
    }

    /// Issues a new certificate if two thirds of the lifetime of the current one have passed.
    pub(crate) async fn renew(&self, now: SystemTime) -> Result<(), OwnAuthorityError> {
        if !must_renew(&self.0.presented.borrow().validity, now) {
            return Ok(());
        }
        let authorities = self.0.authorities.lock().await;
        let signers = authorities.clone();
        let state = self.0.clone();
        let issued = spawn_blocking(move || state.issue(&signers, now)).await;
        let presented = issued.map_err(|_| OwnAuthorityError::Stopped)??;
        self.0.presented.send_replace(Arc::new(presented));
        drop(authorities);
        let not_after = DateTime::<Utc>::from(self.0.presented.borrow().validity.end);
        info!(event = "certificate.renewed", %not_after, "certificate renewed");
        Ok(())
    }

    /// Prepares a step of the rotation. Other steps wait until it is committed or dropped.
    pub(crate) async fn prepare(
        &self,
        step: RotationStep,
        now: SystemTime,
    ) -> Result<PreparedStep<'_>, OwnAuthorityError> {
        let authorities = self.0.authorities.lock().await;
        let before = authorities.clone();
        let state = self.0.clone();
        let prepared = spawn_blocking(move || state.prepare(&before, step, now)).await;
        let (after, presented) = prepared.map_err(|_| OwnAuthorityError::Stopped)??;
        Ok(PreparedStep { state: &self.0, authorities, after, presented, now })
    }
}

/// A step of the rotation that has no effect yet.
pub(crate) struct PreparedStep<'a> {
    state: &'a Arc<OwnState>,
    authorities: MutexGuard<'a, Authorities>,
    after: Authorities,
    presented: ServerCertificate,
    now: SystemTime,
}

impl PreparedStep<'_> {
    /// Returns the state that the step leads to.
    pub(crate) fn view(&self) -> AuthorityView {
        let announced_at = match self.after.state() {
            RotationState::Steady => None,
            RotationState::Announced => Some(self.now.into()),
            RotationState::Switched => self.state.view.borrow().announced_at,
        };
        view_of(&self.after, self.now.into(), announced_at)
    }

    /// Makes the step durable, then lets agents and operators see it.
    pub(crate) async fn commit(mut self) -> Result<AuthorityView, OwnAuthorityError> {
        let view = self.view();
        let rotation = self.after.map(|authority| authority.fingerprint());
        let AuthorityView { since, announced_at, .. } = view;
        let on_disk = StateOnDisk { rotation, since, announced_at };
        let folder = self.state.folder.clone();
        let saved = spawn_blocking(move || {
            folder.save(&on_disk)?;
            folder.remove_unused(&on_disk.rotation);
            Ok::<_, FolderError>(())
        });
        saved.await.map_err(|_| OwnAuthorityError::Stopped)??;
        // Agents receive a pin before a certificate that needs it.
        self.state.pins.send_replace(pins_of(&self.after));
        self.state.presented.send_replace(Arc::new(self.presented));
        self.state.view.send_replace(view.clone());
        *self.authorities = self.after;
        Ok(view)
    }
}

impl OwnState {
    /// Returns the next state, and the certificate to present in it. Nothing refers to them yet. Blocks.
    fn prepare(
        &self,
        before: &Authorities,
        step: RotationStep,
        now: SystemTime,
    ) -> Result<(Authorities, ServerCertificate), OwnAuthorityError> {
        let after = match step {
            RotationStep::Announce => {
                let next = Arc::new(CertificateAuthority::generate(AUTHORITY_NAME)?);
                let after = before.announce(Arc::clone(&next))?;
                self.folder.add(&next)?;
                after
            }
            RotationStep::Switch => before.switch()?,
            RotationStep::Retire => before.retire()?,
        };
        let presented = self.issue(&after, now)?;
        Ok((after, presented))
    }

    /// Issues a certificate. Blocks.
    fn issue(
        &self,
        authorities: &Authorities,
        now: SystemTime,
    ) -> Result<ServerCertificate, OwnAuthorityError> {
        issue(&self.folder, authorities, &self.names, now)
    }
}

/// Issues a certificate. While agents may still have the old pin only, the chain also leads to the old
/// authority: the leaf, the new authority, the new authority signed by the old one, the old one. Blocks.
fn issue(
    folder: &AuthorityFolder,
    authorities: &Authorities,
    names: &[String],
    now: SystemTime,
) -> Result<ServerCertificate, OwnAuthorityError> {
    let current = authorities.current();
    let mut issued = current.issue(names, own_validity(now))?;
    if let Some(previous) = authorities.previous() {
        issued.chain.push(previous.cross_sign(current)?);
        issued.chain.push(previous.certificate().clone());
    }
    if let Err(error) = folder.show_certificate(&issued.chain) {
        // The file is for people only.
        warn!(event = "certificate.not_written", %error, "cannot write the certificate");
    }
    Ok(ServerCertificate::new(issued.chain, issued.key, Alpn::Http2)?)
}

fn pins_of(authorities: &Authorities) -> Arc<[Fingerprint]> {
    authorities.pinned().map(|authority| authority.fingerprint()).collect()
}

fn view_of(
    authorities: &Authorities,
    since: DateTime<Utc>,
    announced_at: Option<DateTime<Utc>>,
) -> AuthorityView {
    let facts = |authority: &Arc<CertificateAuthority>| AuthorityFacts {
        fingerprint: authority.fingerprint(),
        not_after: authority.not_after(),
    };
    AuthorityView {
        state: authorities.state(),
        since,
        announced_at,
        current: facts(authorities.current()),
        next: authorities.next().map(facts),
        previous: authorities.previous().map(facts),
    }
}
