//! What administrators do with clients: invite, approve, forget, and request a new key.
//!
//! Each function returns after its effect and its audit record are durable.

mod address;
mod invite_request;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::invite::{Invite, MAX_PINS, Secret, ServerAddress};
use filepull_core::problem::{Code, Problem};
use tracing::{error, info};
use uuid::Uuid;

use crate::config::AgentAccess;
use crate::known_clients::KnownClients;
use crate::records::{Actor, InviteRejection, NewInvite, Records, RecordsError};
use crate::registry::{ClientView, Message, Registry};
use crate::tls::CaPins;
use crate::transfers::Transfers;
pub(crate) use address::public_addresses;
pub(crate) use invite_request::InviteRequest;
use invite_request::RequestedInvite;

/// Administers clients. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClientAdmin {
    pub(crate) records: Records,
    pub(crate) registry: Registry,
    pub(crate) clients: KnownClients,
    pub(crate) transfers: Transfers,
    /// The authorities that an invite pins.
    pub(crate) ca_pins: CaPins,
    /// Where agents reach this server.
    pub(crate) addresses: Arc<[ServerAddress]>,
    pub(crate) max_clients: u64,
    /// Which agents get a session. An open server speaks plain text, over which no agent enrols.
    pub(crate) access: AgentAccess,
}

/// An invite that is on record, with its text, which exists only here.
#[derive(Clone, Debug)]
pub(crate) struct CreatedInvite {
    pub(crate) recorded: NewInvite,
    pub(crate) invite: Invite,
}

/// Why no invite was made.
#[derive(Clone, Debug)]
pub(crate) struct InviteFailure {
    pub(crate) problem: Problem,
    /// The client of the request that it is about, if it is about one.
    pub(crate) client: Option<ClientId>,
}

impl From<Problem> for InviteFailure {
    fn from(problem: Problem) -> Self {
        Self { problem, client: None }
    }
}

impl ClientAdmin {
    /// Records the requested invites, all or none, and returns them with their secrets.
    ///
    /// # Errors
    /// [`Code::ClientExists`] if a client has a key and the request does not replace it;
    /// [`Code::InvalidRequest`] if agents cannot enrol here.
    pub(crate) async fn invite(
        &self,
        request: InviteRequest,
        by: &Actor,
    ) -> Result<Vec<CreatedInvite>, InviteFailure> {
        if self.access == AgentAccess::Open {
            return Err(no_enrolment().into());
        }
        let now = Utc::now();
        let expires_at = in_seconds(now, request.valid_for);
        let invites =
            request.invites.into_iter().map(|requested| self.create(requested, now, expires_at));
        let invites = invites.collect::<Result<Vec<_>, _>>()?;
        let new = invites.iter().map(|created| created.recorded.clone()).collect();
        let recorded = self.records.create_invites(new, self.max_clients, by, now).await;
        recorded.map_err(|error| failed(&error))?.map_err(|rejected| failure(&rejected))?;
        let n_invites = invites.len();
        info!(event = "invite.created", n_invites, actor = by.name, "invites created");
        Ok(invites)
    }

    fn create(
        &self,
        requested: RequestedInvite,
        now: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Result<CreatedInvite, Problem> {
        let RequestedInvite { invitee, uses, approve, replace, labels } = requested;
        let secret = random_secret();
        let recorded = NewInvite {
            id: Uuid::now_v7(),
            secret_hash: secret.hash(),
            invitee: invitee.clone(),
            uses,
            approve,
            replace,
            labels,
            created_at: now,
            expires_at,
        };
        let pins = self.ca_pins.current().iter().copied().take(MAX_PINS).collect();
        let expires_unix_s = u64::try_from(expires_at.timestamp()).unwrap_or(0);
        let invite = Invite::new(self.addresses.to_vec(), invitee, pins, secret, expires_unix_s);
        let invite =
            invite.ok_or_else(|| Problem::new(Code::Internal, "The invite does not fit."))?;
        Ok(CreatedInvite { recorded, invite })
    }

    /// Approves a pending client. Approving it again changes nothing.
    ///
    /// # Errors
    /// The client is unknown, or was never enrolled.
    pub(crate) async fn approve(
        &self,
        client: &ClientId,
        by: &Actor,
    ) -> Result<ClientView, Problem> {
        self.clients.everything().known(client, failed).await?;
        let approved = self.records.approve_client(client, by).await;
        if approved.map_err(|error| failed(&error))?.is_none() {
            return Err(not_enrolled(client));
        }
        info!(event = "client.approved", %client, actor = by.name, "client approved");
        self.clients.everything().known(client, failed).await
    }

    /// Removes a client with its key and its invites. Its session, its upload and its transfers end.
    /// Its downloads and the records of its transfers stay.
    ///
    /// # Errors
    /// The client is unknown.
    pub(crate) async fn forget(&self, client: &ClientId, by: &Actor) -> Result<(), Problem> {
        let at = Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
        let detail = format!("{client} was forgotten by {} at {at}.", by.name);
        let forgotten = self.records.forget_client(client, &detail, by).await;
        let was_known = forgotten.map_err(|error| failed(&error))?;
        // Also for an unknown client: an earlier call may have been interrupted here.
        self.registry.remove(client);
        self.transfers.end_all_of(client, &detail).await;
        if !was_known {
            self.clients.everything().known(client, failed).await?;
        }
        info!(event = "client.forgotten", %client, actor = by.name, "client forgotten");
        Ok(())
    }

    /// Requests a new key of a connected client. The client sends it over its session.
    ///
    /// # Errors
    /// The client is unknown, was never enrolled, or is not connected.
    pub(crate) async fn rotate(
        &self,
        client: &ClientId,
        by: &Actor,
    ) -> Result<ClientView, Problem> {
        let view = self.clients.everything().known(client, failed).await?;
        if view.record.key.is_none() {
            return Err(not_enrolled(client));
        }
        if view.record.is_pending() {
            let detail = format!("{client} waits for approval, and may do nothing.");
            return Err(Problem::new(Code::ClientPending, detail));
        }
        let Some(session) = self.registry.session(client) else {
            let detail = format!("{client} is offline, and sends a new key over its session only.");
            let hint = "Request the new key when the client is connected.";
            return Err(Problem::new(Code::ClientOffline, detail).hint(hint));
        };
        let requested = self.records.rotation_requested(client, by).await;
        requested.map_err(|error| failed(&error))?;
        if session.send(Message::RotateKey).is_err() {
            let detail = format!("{client} does not read its messages.");
            return Err(Problem::new(Code::ServerBusy, detail));
        }
        info!(event = "key.rotation_requested", %client, actor = by.name, "new key requested");
        Ok(view)
    }
}

/// Returns `now` plus a time, in whole seconds as in an invite.
fn in_seconds(now: DateTime<Utc>, valid_for: Duration) -> DateTime<Utc> {
    let valid_for = i64::try_from(valid_for.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_timestamp(now.timestamp().saturating_add(valid_for), 0).unwrap_or(now)
}

/// Returns a secret of the system's random numbers.
fn random_secret() -> Secret {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).expect("the system has random numbers");
    Secret::new(random)
}

fn no_enrolment() -> Problem {
    let detail = "This server speaks plain text to agents (AGENT_AUTH=open, or auto on a loopback \
        address), so no agent can use an invite. No invite was made.";
    let hint = "Set AGENT_AUTH=invite and restart the server.";
    Problem::new(Code::InvalidRequest, detail).hint(hint)
}

fn not_enrolled(client: &ClientId) -> Problem {
    let detail = format!("{client} has no key: it was never enrolled.");
    let hint = format!("Enrol it: filepull invite {client}");
    Problem::new(Code::InvalidRequest, detail).hint(hint)
}

fn failure(rejected: &InviteRejection) -> InviteFailure {
    let client = match rejected {
        InviteRejection::Exists(client) | InviteRejection::Confusable { client, .. } => {
            Some(client)
        }
        InviteRejection::TooMany => None,
    };
    InviteFailure { problem: problem(rejected), client: client.cloned() }
}

fn problem(rejected: &InviteRejection) -> Problem {
    match rejected {
        InviteRejection::Exists(client) => {
            let detail = format!("{client} is enrolled already. No invite was made.");
            let hint = format!(
                "To replace the key of a machine that was set up again: filepull invite {client} --replace"
            );
            Problem::new(Code::ClientExists, detail).hint(hint)
        }
        InviteRejection::Confusable { client, known } => {
            let detail = format!(
                "{client} differs from the known client {known} by letter case only. No invite was made."
            );
            Problem::new(Code::ClientExists, detail).hint("Choose another id.")
        }
        InviteRejection::TooMany => {
            let detail = "With these invites the server would know more clients than MAX_CLIENTS.";
            Problem::new(Code::TooManyClients, detail)
        }
    }
}

/// Logs a database error and returns a generic problem.
fn failed(error: &RecordsError) -> Problem {
    error!(event = "records.failed", error = %human::chain(error), "the records failed");
    Problem::new(Code::RecordsFailed, "The server could not read or write its records.")
}
