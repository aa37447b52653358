//! The rotation of the authority, step by step: by an operator, or by the server itself once every client
//! has the new pin. Each step is in the audit before it has an effect.

use std::time::SystemTime;

use chrono::Utc;
use filepull_core::audit::AuditAction;
use filepull_core::fingerprint::Fingerprint;
use tracing::info;

use super::own_authority::{AuthorityView, OwnAuthority, OwnAuthorityError, RotationStep};
use super::rotation::RotationState;
use crate::records::{Actor, PinHolders, PinWaits, Records, RecordsError};

/// Maximum number of clients that are named. The number of all is reported too.
const MAX_NAMED: u32 = 1000;

/// A handle on the rotation; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct CaRotation {
    authority: OwnAuthority,
    records: Records,
}

/// The state of the rotation, and which clients can follow it.
#[derive(Clone, Debug)]
pub(crate) struct RotationStatus {
    pub(crate) view: AuthorityView,
    /// The newest pin: of the successor before the switch, of the current authority after it.
    pub(crate) newest: Fingerprint,
    /// Which enrolled clients have the newest pin.
    pub(crate) holders: PinHolders,
    /// Who cannot learn it over a session.
    pub(crate) waits: PinWaits,
}

impl RotationStatus {
    /// Returns whether machines would be cut off by a step: by a switch those that are enrolled, by the
    /// end of the old authority also those that wait for approval or hold an earlier invite.
    fn cuts_off(&self, step: RotationStep) -> bool {
        let PinWaits { n_pending, n_invites } = self.waits;
        match step {
            RotationStep::Announce => false,
            RotationStep::Switch => 0 < self.holders.n_without,
            RotationStep::Retire => 0 < self.holders.n_without + n_pending + n_invites,
        }
    }
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotationError {
    /// Clients do not have the newest pin.
    #[error("{} enrolled clients do not have the new pin", .0.holders.n_without)]
    Lacking(Box<RotationStatus>),
    /// The step is not possible, or the files cannot be written.
    #[error(transparent)]
    Authority(#[from] OwnAuthorityError),
    /// The records cannot be read or written.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What a step does if clients do not have the newest pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithoutPin {
    /// Nothing is done.
    Refuse,
    /// The step is done. Those clients may need a new invite.
    Accept,
}

impl CaRotation {
    pub(crate) fn new(authority: OwnAuthority, records: Records) -> Self {
        Self { authority, records }
    }

    /// Returns the state, and the clients without the newest pin.
    pub(crate) async fn status(&self) -> Result<RotationStatus, RecordsError> {
        let view = self.authority.view();
        let newest = view.next.unwrap_or(view.current).fingerprint;
        let holders = self.records.pin_holders(&newest, MAX_NAMED).await?;
        let waits = match view.announced_at {
            Some(at) => self.records.pin_waits(&newest, at, Utc::now()).await?,
            None => PinWaits::default(),
        };
        Ok(RotationStatus { view, newest, holders, waits })
    }

    /// Performs a step. Returns the new state once it is durable and in effect. A step that some clients
    /// cannot follow needs `WithoutPin::Accept`.
    pub(crate) async fn step(
        &self,
        step: RotationStep,
        without_pin: WithoutPin,
        actor: &Actor,
    ) -> Result<RotationStatus, RotationError> {
        let prepared = self.authority.prepare(step, SystemTime::now()).await?;
        // Read while no other step can run.
        let status = self.status().await?;
        let n_without = status.holders.n_without;
        if without_pin == WithoutPin::Refuse && status.cuts_off(step) {
            return Err(RotationError::Lacking(Box::new(status)));
        }
        let view = prepared.view();
        let current = view.current.fingerprint.to_string();
        let next = view.next.map(|next| next.fingerprint.to_string());
        let entry = actor
            .did(action(step), "ca")
            .with("current", current)
            .with("next", next)
            .with("clients_without_pin", n_without);
        self.records.audit(entry).await?;
        log(step, &actor.name, &prepared.commit().await?);
        Ok(self.status().await?)
    }

    /// Switches to the successor if every enrolled client has its pin.
    pub(crate) async fn switch_if_all_have_it(&self) -> Result<(), RotationError> {
        if self.authority.view().state != RotationState::Announced {
            return Ok(());
        }
        if self.status().await?.holders.n_without == 0 {
            self.step(RotationStep::Switch, WithoutPin::Refuse, &Actor::server()).await?;
        }
        Ok(())
    }
}

fn action(step: RotationStep) -> AuditAction {
    match step {
        RotationStep::Announce => AuditAction::CaRotated,
        RotationStep::Switch => AuditAction::CaSwitched,
        RotationStep::Retire => AuditAction::CaRetired,
    }
}

fn log(step: RotationStep, actor: &str, view: &AuthorityView) {
    let current = view.current.fingerprint;
    match step {
        RotationStep::Announce => {
            let next = view.next.map(|next| next.fingerprint.to_string());
            info!(event = "authority.announced", actor, %current, next, "successor announced");
        }
        RotationStep::Switch => {
            info!(event = "authority.switched", actor, %current, "switched to the successor");
        }
        RotationStep::Retire => {
            info!(event = "authority.retired", actor, %current, "old authority retired");
        }
    }
}
