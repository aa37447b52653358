//! Admits an agent to a session: its key, its id, the session of another machine, the records.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use chrono::Utc;
use filepull_core::extent::ExtentKinds;
use filepull_core::{CHUNK_LEN, PROTOCOL};
use filepull_proto::millis;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::{AgentMessage, Error, ErrorCode, Hello, ServerMessage, Welcome};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{Span, error, error_span, info};

use super::authentication::{PeerRejection, ProvedAgent};
use super::key_exchange::KeyExchange;
use super::wire::{
    PERSON_RETRY, STOPPING_RETRY, end_error, greeting, rejection, rejection_error, session_end,
    wire,
};
use super::{Gateway, SessionSettings};
use crate::client::{Greeting, OnRecord};
use crate::records::ConnectOutcome;
use crate::registry::{
    EndReason, LastHeard, Message, SessionGuard, SessionHandle, SessionRejection,
};
use crate::tls::CaPins;

/// What the agent receives.
pub(crate) type Outgoing = BoxStream<'static, Result<ServerMessage, Status>>;

/// Why an agent gets no session.
pub(crate) enum AdmissionError {
    /// Because of its key.
    Key(PeerRejection),
    /// For another reason.
    Other(Error),
}

impl From<Error> for AdmissionError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<PeerRejection> for AdmissionError {
    fn from(rejected: PeerRejection) -> Self {
        Self::Key(rejected)
    }
}

/// A session that is registered and recorded, and whose task does not run yet.
pub(crate) struct AdmittedSession {
    pub(crate) guard: SessionGuard,
    pub(crate) outgoing: Outgoing,
    pub(crate) heard: watch::Sender<LastHeard>,
    pub(crate) keys: KeyExchange,
    pub(crate) span: Span,
}

/// Admits an agent, or returns the error to send instead of the welcome.
pub(crate) async fn admit(
    gateway: &Gateway,
    peer: ProvedAgent,
    hello: Hello,
    remote_addr: SocketAddr,
) -> Result<AdmittedSession, AdmissionError> {
    if gateway.lifecycle.drain().is_cancelled() {
        return Err(end_error(&EndReason::Stopping).into());
    }
    let protocol = choose_protocol(&hello)?;
    let greeting = greeting(hello, remote_addr, peer.key())?;
    let client = greeting.client.clone();
    let n_revocations = gateway.registry.n_revocations();
    gateway.authorize(&peer, &client).await?;
    let dead_after = gateway.session.dead_after;
    let rejected = |rejected| rejection_error(&rejected, dead_after);
    gateway.registry.admit(&greeting).await.map_err(rejected)?;
    let on_record = record(gateway, &greeting).await?;
    let now = Utc::now();
    let (heard, last_heard) = watch::channel(LastHeard { at: now, round_trip: None });
    let (session, messages) = SessionHandle::new(on_record.epoch, &greeting, last_heard);
    let span = error_span!("session", %client, id = %session.id);
    span.in_scope(|| log_connected(&greeting, &on_record));
    let records = gateway.records.clone();
    let ca_pins = gateway.ca_pins.follow();
    let outgoing = outgoing(gateway.session, protocol, &ca_pins, &session, messages);
    let keys = KeyExchange::new(records, ca_pins, on_record.key.as_ref(), gateway.key_max_age);
    let guard = gateway.registry.enter(greeting, session, on_record, now).map_err(rejected)?;
    if gateway.registry.n_revocations() != n_revocations {
        // A key was removed after it was checked, and before it could end this session.
        check_again(gateway, &peer, &guard).await?;
    }
    Ok(AdmittedSession { guard, outgoing, heard, keys, span })
}

/// Records the new session, and checks the key of the agent in the same transaction.
async fn record(gateway: &Gateway, greeting: &Greeting) -> Result<OnRecord, AdmissionError> {
    let client = greeting.client.clone();
    let rejected = |rejected| {
        Err(AdmissionError::Other(rejection_error(&rejected, gateway.session.dead_after)))
    };
    let connected = gateway.records.client_connected(greeting, gateway.max_clients, Utc::now());
    match connected.await {
        Ok(ConnectOutcome::Accepted(on_record)) => Ok(on_record),
        Ok(ConnectOutcome::Confusable(known)) => {
            rejected(SessionRejection::Confusable { client, known })
        }
        Ok(ConnectOutcome::TooManyClients) => rejected(SessionRejection::TooManyClients),
        Ok(ConnectOutcome::KeyRejected) => Err(PeerRejection::UnknownKey.into()),
        Err(error) => {
            error!(event = "records.failed", %client, %error, "cannot record the connected client");
            let reason = "the server's records failed";
            Err(rejection(ErrorCode::StorageFailed, reason, STOPPING_RETRY).into())
        }
    }
}

async fn check_again(
    gateway: &Gateway,
    peer: &ProvedAgent,
    guard: &SessionGuard,
) -> Result<(), PeerRejection> {
    let key = gateway.records.key_of_client(&guard.client).await;
    let is_admitted = match (key, peer) {
        (Ok(Some(on_record)), ProvedAgent::Enrolled { key, .. }) => on_record.admits(key),
        (Ok(None), ProvedAgent::Unproved) => true,
        (Ok(_) | Err(_), _) => false,
    };
    if is_admitted {
        return Ok(());
    }
    guard.session.end(EndReason::Revoked);
    Err(PeerRejection::UnknownKey)
}

/// Returns the newest protocol that both sides know.
fn choose_protocol(hello: &Hello) -> Result<u32, Error> {
    let known = hello.protocol_min..=hello.protocol_max;
    PROTOCOL.rev().find(|version| known.contains(version)).ok_or_else(|| {
        let older = if known.end() < PROTOCOL.start() { "agent" } else { "server" };
        let reason = format!(
            "this server speaks protocol {}, the agent speaks {}: update the {older}",
            versions(&PROTOCOL),
            versions(&known)
        );
        rejection(ErrorCode::Unsupported, &reason, PERSON_RETRY)
    })
}

/// Returns `2`, or `2 to 3`.
fn versions(range: &RangeInclusive<u32>) -> String {
    match (range.start(), range.end()) {
        (oldest, newest) if oldest == newest => newest.to_string(),
        (oldest, newest) => format!("{oldest} to {newest}"),
    }
}

/// Returns the error for an agent that sent something, or closed the session, before the welcome.
pub(crate) fn early_error(early: &Result<Option<AgentMessage>, Status>) -> Error {
    match early {
        Ok(Some(_)) => {
            let reason = "a message arrived before the welcome";
            rejection(ErrorCode::Protocol, reason, PERSON_RETRY)
        }
        Ok(None) | Err(_) => {
            let reason = "the agent closed the session before the welcome";
            rejection(ErrorCode::Unspecified, reason, STOPPING_RETRY)
        }
    }
}

fn log_connected(greeting: &Greeting, on_record: &OnRecord) {
    let Greeting { agent, remote_addr, .. } = greeting;
    let epoch = on_record.epoch;
    if on_record.key_changed {
        info!(event = "key.rotated", "the next key is the only key now");
    }
    info!(
        event = "client.connected", %remote_addr, agent_version = agent.version, os = agent.os,
        hostname = agent.hostname, epoch, "client connected"
    );
}

/// Returns what the agent receives: the welcome, then messages, then the reason for the end.
fn outgoing(
    settings: SessionSettings,
    protocol: u32,
    ca_pins: &CaPins,
    session: &SessionHandle,
    messages: mpsc::Receiver<Message>,
) -> Outgoing {
    let welcome = ToAgent::Welcome(Welcome {
        session_id: session.id.to_string(),
        protocol,
        capabilities: ["drain", "resume"]
            .into_iter()
            .chain(ExtentKinds::ALL.capabilities())
            .map(str::to_owned)
            .collect(),
        heartbeat_ms: millis(settings.heartbeat),
        dead_after_ms: millis(settings.dead_after),
        max_chunk_bytes: u32::try_from(CHUNK_LEN).unwrap_or(u32::MAX),
        reconnect: Some(settings.reconnect.into()),
        ca_pins: ca_pins.to_wire(),
    });
    let first = stream::iter([Ok(ServerMessage { kind: Some(welcome) })]);
    let session = session.clone();
    let rest = stream::unfold(Some((session, messages, 0)), |open| async {
        let (session, mut messages, seq) = open?;
        tokio::select! {
            biased;
            reason = session.ended() => Some((Ok(session_end(end_error(&reason))), None)),
            message = messages.recv() => {
                let kind = Some(wire(message?, seq));
                Some((Ok(ServerMessage { kind }), Some((session, messages, seq + 1))))
            }
        }
    });
    first.chain(rest).boxed()
}
