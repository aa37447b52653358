//! The Session rpc: greets an agent, sends orders, receives the answers, and notices when the agent
//! no longer responds.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::Utc;
use filepull_core::id::TransferId;
use filepull_core::{CHUNK_LEN, PROTOCOL, human};
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{
    AgentMessage, Error, ErrorCode, Hello, Pong, ServerMessage, TransferUpdate, Welcome,
};
use filepull_proto::{millis, reported};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, interval_at, sleep, sleep_until, timeout};
use tonic::{Request, Status, Streaming};
use tracing::{Instrument as _, Span, debug, error, error_span, info, trace};

use super::incoming::ConnectionInfo;
use super::wire::{
    PERSON_RETRY, STOPPING_RETRY, end_error, greeting, rejection, rejection_error, session_end,
    wire,
};
use super::{GREETING_LIMIT, Gateway, SessionSettings};
use crate::client::{Disconnect, DisconnectReason, Greeting};
use crate::records::Enrolment;
use crate::registry::{
    EndReason, LastHeard, Message, SessionGuard, SessionHandle, SessionRejection,
};
use crate::tls::CaPins;
use crate::transfers::Answer;

type Outgoing = BoxStream<'static, Result<ServerMessage, Status>>;

pub(crate) async fn open(
    gateway: Gateway,
    request: Request<Streaming<AgentMessage>>,
) -> Result<Outgoing, Status> {
    let info = request.extensions().get::<ConnectionInfo>().cloned();
    let connection = info.ok_or_else(|| Status::internal("an unknown connection"))?;
    let remote_addr = connection.remote_addr.ok_or_else(|| Status::internal("no address"))?;
    connection.read_budget.begin_session();
    let mut messages = request.into_inner();
    let received = receive_hello(&mut messages).await;
    let hello = received.inspect_err(|status| gateway.rejections.rpc(Some(remote_addr), status))?;
    connection.read_budget.renew();
    let client_id = hello.client_id.clone();
    let instance_id = hello.instance_id.clone();
    let admitted = tokio::select! {
        biased;
        admitted = admit(&gateway, hello, remote_addr) => admitted,
        // Keep reading during the admission: unread data stays in memory, and an agent that closes
        // the connection needs no decision.
        early = messages.message() => Err(early_error(&early)),
    };
    match admitted {
        Ok(AdmittedSession { guard, outgoing, heard, span }) => {
            let task = SessionTask { gateway: gateway.clone(), connection, guard, heard };
            gateway.lifecycle.spawn(task.run(messages).instrument(span));
            Ok(outgoing)
        }
        Err(error) => {
            gateway.rejections.session(&client_id, &instance_id, remote_addr, &error);
            Ok(stream::iter([Ok(session_end(error))]).boxed())
        }
    }
}

/// Receives the first message of an agent.
async fn receive_hello(messages: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    let received = timeout(GREETING_LIMIT, messages.message()).await;
    let first = received.map_err(|_| Status::deadline_exceeded("no hello arrived"))??;
    match first.and_then(|message| message.kind) {
        Some(FromAgent::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a session begins with its hello")),
    }
}

/// A session that is registered and recorded, and whose task does not run yet.
struct AdmittedSession {
    guard: SessionGuard,
    outgoing: Outgoing,
    heard: watch::Sender<LastHeard>,
    span: Span,
}

/// Admits an agent, or returns the error to send instead of the welcome.
async fn admit(
    gateway: &Gateway,
    hello: Hello,
    remote_addr: SocketAddr,
) -> Result<AdmittedSession, Error> {
    if gateway.lifecycle.drain().is_cancelled() {
        return Err(end_error(&EndReason::Stopping));
    }
    let protocol = choose_protocol(&hello)?;
    let greeting = greeting(hello, remote_addr)?;
    let client = greeting.client.clone();
    let dead_after = gateway.session.dead_after;
    let rejected = |rejected| rejection_error(&rejected, dead_after);
    gateway.registry.admit(&greeting).await.map_err(rejected)?;
    let now = Utc::now();
    let enrolment = gateway.records.client_connected(&greeting, now).await.map_err(|error| {
        error!(event = "records.failed", %client, %error, "cannot record the connected client");
        rejection(ErrorCode::StorageFailed, "the server's records failed", STOPPING_RETRY)
    })?;
    let (epoch, last_disconnect) = match enrolment {
        Enrolment::Accepted { epoch, last_disconnect } => (epoch, last_disconnect),
        Enrolment::Confusable(known) => {
            return Err(rejected(SessionRejection::Confusable { client, known }));
        }
    };
    let (heard, last_heard) = watch::channel(LastHeard { at: now, round_trip: None });
    let (session, messages) = SessionHandle::new(epoch, &greeting, last_heard);
    let span = error_span!("session", %client, id = %session.id);
    span.in_scope(|| log_connected(&greeting, epoch));
    let outgoing = outgoing(gateway.session, protocol, &gateway.ca_pins, &session, messages);
    let entered = gateway.registry.enter(greeting, session, last_disconnect, now);
    Ok(AdmittedSession { guard: entered.map_err(rejected)?, outgoing, heard, span })
}

/// Returns the newest protocol that both sides know.
fn choose_protocol(hello: &Hello) -> Result<u32, Error> {
    let known = hello.protocol_min..=hello.protocol_max;
    PROTOCOL.rev().find(|version| known.contains(version)).ok_or_else(|| {
        let reason = format!(
            "this server speaks protocol {}-{}, the agent {}-{}: update the older one",
            PROTOCOL.start(),
            PROTOCOL.end(),
            known.start(),
            known.end()
        );
        rejection(ErrorCode::Unsupported, &reason, PERSON_RETRY)
    })
}

/// Returns the error for an agent that sent something, or closed the session, before the welcome.
fn early_error(early: &Result<Option<AgentMessage>, Status>) -> Error {
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

fn log_connected(greeting: &Greeting, epoch: u64) {
    let Greeting { agent, remote_addr, .. } = greeting;
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
        capabilities: vec!["drain".into(), "resume".into()],
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

/// Serves one session from its welcome to its end.
struct SessionTask {
    gateway: Gateway,
    connection: ConnectionInfo,
    guard: SessionGuard,
    heard: watch::Sender<LastHeard>,
}

impl SessionTask {
    /// Receives messages and sends pings. Ends when the agent closes the session or is silent for too
    /// long, when the server ends the session, or when the process stops.
    async fn run(self, mut messages: Streaming<AgentMessage>) {
        let (reason, detail) = self.receive(&mut messages).await;
        let disconnect = Disconnect { at: Utc::now(), reason, detail };
        let left = self.guard.leave(&disconnect);
        let detail = human::printable(&disconnect.detail, 255);
        info!(event = "client.disconnected", %reason, detail, "client disconnected");
        if let Some(left) = left {
            match self.gateway.records.client_left(&left).await {
                Ok(()) => self.gateway.registry.left_on_record(&left),
                Err(error) => {
                    error!(event = "records.failed", %error, "cannot record the end of a session");
                }
            }
        }
        if reason == DisconnectReason::Silent {
            // An agent that receives and is not received would take the session for alive.
            let delay = sleep(END_DELAY);
            self.gateway.lifecycle.stop().run_until_cancelled(delay).await;
            self.connection.reset();
        }
    }

    async fn receive(&self, messages: &mut Streaming<AgentMessage>) -> (DisconnectReason, String) {
        let dead_after = self.gateway.session.dead_after;
        let mut heartbeat = self.heartbeat();
        let mut dead_at = Instant::now() + dead_after;
        let stop = self.gateway.lifecycle.stop().clone();
        loop {
            tokio::select! {
                received = messages.message() => match received {
                    Ok(Some(message)) => {
                        self.connection.read_budget.renew();
                        dead_at = Instant::now() + dead_after;
                        if let Some(reason) = self.handle(message.kind) {
                            return (DisconnectReason::Stopped, reason);
                        }
                    }
                    Ok(None) => {
                        return (DisconnectReason::Reset, "connection closed by agent".into());
                    }
                    Err(status) => return (DisconnectReason::Reset, status.message().into()),
                },
                _ = heartbeat.tick() => { self.guard.session.probe(); }
                () = sleep_until(dead_at) => {
                    let limit = human::span(dead_after);
                    return (DisconnectReason::Silent, format!("no heartbeat for {limit}"));
                }
                reason = self.guard.session.ended() => return disconnected(reason),
                () = stop.cancelled() => return disconnected(EndReason::Stopping),
            }
        }
    }

    /// Returns the times of the pings. The interval differs between sessions, so that a fleet does
    /// not answer all at once.
    fn heartbeat(&self) -> Interval {
        let mean = self.gateway.session.heartbeat;
        let interval = in_slots(mean.mul_f64(0.8 + 0.4 * fastrand::f64()));
        let started = self.gateway.started;
        interval_at(started + in_slots(started.elapsed() + interval), interval)
    }

    /// Handles one message. Returns the reason if it was a goodbye.
    fn handle(&self, kind: Option<FromAgent>) -> Option<String> {
        let mut round_trip = self.heard.borrow().round_trip;
        let mut goodbye = None;
        match kind {
            Some(FromAgent::Pong(pong)) => round_trip = self.round_trip(&pong),
            Some(FromAgent::Transfer(update)) => self.update(update),
            Some(FromAgent::Goodbye(bye)) => goodbye = Some(human::printable(&bye.reason, 255)),
            Some(FromAgent::Hello(_) | FromAgent::PinsStored(_) | FromAgent::NewKey(_)) | None => {
                debug!(event = "message.ignored", "message of unknown kind ignored");
            }
        }
        self.heard.send_replace(LastHeard { at: Utc::now(), round_trip });
        goodbye
    }

    /// Returns the time since the ping, unless the server's clock was set meanwhile: the agent echoes
    /// the time of that clock.
    fn round_trip(&self, pong: &Pong) -> Option<Duration> {
        let sent_us = i64::try_from(pong.echo_unix_us).unwrap_or(i64::MAX);
        let elapsed_us = Utc::now().timestamp_micros().saturating_sub(sent_us);
        let elapsed = u64::try_from(elapsed_us).ok().map(Duration::from_micros);
        let round_trip = elapsed.filter(|&elapsed| elapsed < self.gateway.session.dead_after);
        let round_trip_us = round_trip.and_then(|time| u64::try_from(time.as_micros()).ok());
        trace!(event = "client.pong_received", round_trip_us, "pong received");
        round_trip
    }

    fn update(&self, update: TransferUpdate) {
        let Ok(id) = TransferId::parse(&update.transfer_id) else { return };
        let answer = match update.state {
            Some(State::Accepted(accepted)) => match accepted.source {
                Some(source) => Answer::Accepted(source.into()),
                None => return,
            },
            Some(State::Failed(error)) if error.retryable => {
                Answer::TryAgain(human::printable(&error.message, 255))
            }
            Some(State::Failed(error)) => Answer::Refused(reported(&error)),
            None => return,
        };
        self.gateway.transfers.answer(&self.guard.client, id, update.attempt, answer);
    }
}

/// How long the reset of a silent agent's connection is delayed, so that the final message can be
/// sent.
const END_DELAY: Duration = Duration::from_millis(250);

/// The heartbeats of all sessions fall on multiples of this time: a worker that wakes up serves many.
const SLOT: Duration = Duration::from_millis(50);

/// Returns the end of the slot that contains `time`.
fn in_slots(time: Duration) -> Duration {
    let n_slots = time.as_nanos() / SLOT.as_nanos() + 1;
    SLOT.saturating_mul(u32::try_from(n_slots).unwrap_or(u32::MAX))
}

fn disconnected(reason: EndReason) -> (DisconnectReason, String) {
    match reason {
        EndReason::Replaced => (DisconnectReason::Replaced, "a newer session replaced it".into()),
        EndReason::Silent(detail) => (DisconnectReason::Silent, detail),
        EndReason::Stopping => (DisconnectReason::ServerRestart, "the server stopped".into()),
    }
}
