//! The Session rpc: greets an agent, carries orders out and answers in, and notices its death.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::Utc;
use filepull_core::id::TransferId;
use filepull_core::{CHUNK_LEN, PROTOCOL, human};
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::server_message::Kind as ToAgent;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{
    AgentMessage, Error, ErrorCode, Hello, ServerMessage, TransferUpdate, Welcome,
};
use filepull_proto::{millis, reported};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, trace, warn};

use super::incoming::ConnectionInfo;
use super::wire::{
    PERSON_RETRY, STOPPING_RETRY, greeting, last_words, refusal, refused_line, session_end, wire,
};
use super::{GREETING_LIMIT, Gateway, SessionSettings};
use crate::client::{Disconnect, DisconnectReason, Greeting};
use crate::records::Enrolment;
use crate::registry::{
    EndReason, LastHeard, Message, SessionGuard, SessionHandle, SessionRejection,
};
use crate::transfers::Answer;

type Outgoing = BoxStream<'static, Result<ServerMessage, Status>>;

pub(super) async fn open(
    gateway: Gateway,
    request: Request<Streaming<AgentMessage>>,
) -> Result<Outgoing, Status> {
    let caller = request.extensions().get::<ConnectionInfo>().cloned();
    let caller = caller.ok_or_else(|| Status::internal("an unknown connection"))?;
    let remote_addr = caller.remote_addr.ok_or_else(|| Status::internal("no address"))?;
    caller.read_budget.begin_session();
    let mut messages = request.into_inner();
    let hello = hello(&mut messages).await;
    let hello = hello.inspect_err(|status| gateway.rejections.rpc(Some(remote_addr), status))?;
    caller.read_budget.renew();
    let (client, instance) = (hello.client_id.clone(), hello.instance_id.clone());
    let welcomed = tokio::select! {
        biased;
        welcomed = welcome(&gateway, hello, remote_addr) => welcomed,
        // Keep reading during the welcome: unread data stays in memory, and a client that closes
        // the connection is not judged.
        early = messages.message() => Err(early_end(&early)),
    };
    match welcomed {
        Ok((seat, outgoing, pulse)) => {
            let line = SessionTask { gateway: gateway.clone(), caller, seat, pulse };
            gateway.lifecycle.spawn(line.run(messages));
            Ok(outgoing)
        }
        Err(refusal) => {
            gateway.rejections.session(&client, &instance, remote_addr, &refusal);
            Ok(stream::iter([Ok(session_end(refusal))]).boxed())
        }
    }
}

/// The first message of an agent.
async fn hello(messages: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    let first = timeout(GREETING_LIMIT, messages.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    match first.and_then(|message| message.kind) {
        Some(FromAgent::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a session begins with its hello")),
    }
}

/// Admits an agent, or says what to send instead of the welcome.
async fn welcome(
    gateway: &Gateway,
    hello: Hello,
    remote_addr: SocketAddr,
) -> Result<(SessionGuard, Outgoing, watch::Sender<LastHeard>), Error> {
    if gateway.lifecycle.drain().is_cancelled() {
        let retry = STOPPING_RETRY;
        return Err(refusal(ErrorCode::Draining, "the server is stopping", retry));
    }
    let spoken = hello.protocol_min..=hello.protocol_max;
    let Some(protocol) = PROTOCOL.rev().find(|version| spoken.contains(version)) else {
        let why = format!(
            "this server speaks protocol {}-{}, the agent {}-{}: update the older one",
            PROTOCOL.start(),
            PROTOCOL.end(),
            spoken.start(),
            spoken.end()
        );
        return Err(refusal(ErrorCode::Unsupported, &why, PERSON_RETRY));
    };
    let greeting = greeting(hello, remote_addr)?;
    let client = greeting.client.clone();
    let dead_after = gateway.session.dead_after;
    let rejected = |refused| refused_line(&refused, dead_after);
    gateway.registry.admit(&greeting).await.map_err(rejected)?;
    let now = Utc::now();
    let enrolment = gateway.records.client_connected(&greeting, now).await.map_err(|error| {
        warn!(event = "records.failed", %client, %error, "the records failed");
        refusal(ErrorCode::StorageFailed, "the server's records failed", STOPPING_RETRY)
    })?;
    let (epoch, last_disconnect) = match enrolment {
        Enrolment::Accepted { epoch, last_disconnect } => (epoch, last_disconnect),
        Enrolment::Confusable(known) => {
            return Err(rejected(SessionRejection::Confusable { client, known }));
        }
    };
    let (pulse, heard) = watch::channel(LastHeard { at: now, round_trip: None });
    let (session, messages) = SessionHandle::new(epoch, &greeting, heard);
    log_connected(&greeting, &session);
    let outgoing = outgoing(gateway.session, protocol, &session, messages);
    let seat = gateway.registry.enter(greeting, session, last_disconnect, now);
    Ok((seat.map_err(rejected)?, outgoing, pulse))
}

/// An agent sends nothing between its hello and the welcome.
fn early_end(early: &Result<Option<AgentMessage>, Status>) -> Error {
    match early {
        Ok(Some(_)) => {
            let why = "a message came before the welcome";
            refusal(ErrorCode::Protocol, why, PERSON_RETRY)
        }
        Ok(None) | Err(_) => {
            let why = "the agent closed the session before the welcome";
            refusal(ErrorCode::Unspecified, why, STOPPING_RETRY)
        }
    }
}

fn log_connected(greeting: &Greeting, session: &SessionHandle) {
    let Greeting { client, agent, remote_addr, .. } = greeting;
    info!(
        event = "client.connected", %client, %remote_addr, agent_version = agent.version,
        os = agent.os, hostname = agent.hostname, session = %session.id, epoch = session.epoch,
        "client connected"
    );
}

/// What the agent is sent: the welcome, then messages, then why the line ends.
fn outgoing(
    line: SessionSettings,
    protocol: u32,
    session: &SessionHandle,
    messages: mpsc::Receiver<Message>,
) -> Outgoing {
    let welcome = ToAgent::Welcome(Welcome {
        session_id: session.id.to_string(),
        protocol,
        capabilities: vec!["drain".into(), "resume".into()],
        heartbeat_ms: millis(line.heartbeat),
        dead_after_ms: millis(line.dead_after),
        max_chunk_bytes: u32::try_from(CHUNK_LEN).unwrap_or(u32::MAX),
        reconnect: Some(line.reconnect.into()),
    });
    let welcome = stream::iter([Ok(ServerMessage { kind: Some(welcome) })]);
    let session = session.clone();
    let rest = stream::unfold(Some((session, messages, 0)), |open| async {
        let (session, mut messages, seq) = open?;
        tokio::select! {
            biased;
            why = session.ended() => Some((Ok(session_end(last_words(&why))), None)),
            message = messages.recv() => {
                let kind = Some(wire(message?, seq));
                Some((Ok(ServerMessage { kind }), Some((session, messages, seq + 1))))
            }
        }
    });
    welcome.chain(rest).boxed()
}

/// A live line, as its own task sees it.
struct SessionTask {
    gateway: Gateway,
    caller: ConnectionInfo,
    seat: SessionGuard,
    pulse: watch::Sender<LastHeard>,
}

impl SessionTask {
    /// Reads what the agent says and pings it. Ends when the line is dead, when the server ends it,
    /// or when the process stops.
    async fn run(self, mut messages: Streaming<AgentMessage>) {
        let (reason, detail) = self.listen(&mut messages).await;
        let disconnect = Disconnect { at: Utc::now(), reason, detail };
        let client = &self.seat.client;
        let left = self.seat.leave(&disconnect);
        let level_detail = human::printable(&disconnect.detail, 255);
        info!(
            event = "client.disconnected", %client, %reason, detail = level_detail,
            session = %self.seat.session.id, "client disconnected"
        );
        if let Some(left) = left {
            match self.gateway.records.client_left(&left).await {
                Ok(()) => self.gateway.registry.left_on_record(&left),
                Err(error) => {
                    warn!(event = "records.failed", %client, %error, "the records failed");
                }
            }
        }
        if reason == DisconnectReason::Silent {
            // An agent that hears us and is not heard must not take this line for alive.
            let last_words = sleep(LAST_WORDS_LIMIT);
            self.gateway.lifecycle.stop().run_until_cancelled(last_words).await;
            self.caller.reset();
        }
    }

    async fn listen(&self, messages: &mut Streaming<AgentMessage>) -> (DisconnectReason, String) {
        let SessionSettings { heartbeat, dead_after, .. } = self.gateway.session;
        // Every line has a beat of its own, so that a fleet does not answer all at once.
        let heartbeat = in_slots(heartbeat.mul_f64(0.8 + 0.4 * fastrand::f64()));
        let now = Instant::now();
        let first = self.gateway.started + in_slots(now - self.gateway.started + heartbeat);
        let mut beat = interval_at(first, heartbeat);
        let mut dead_at = Instant::now() + dead_after;
        let stop = self.gateway.lifecycle.stop().clone();
        loop {
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(message)) => {
                        self.caller.read_budget.renew();
                        dead_at = Instant::now() + dead_after;
                        if let Some(reason) = self.heard(message.kind) {
                            return (DisconnectReason::Stopped, reason);
                        }
                    }
                    Ok(None) => return (DisconnectReason::Reset, "the agent hung up".into()),
                    Err(status) => return (DisconnectReason::Reset, status.message().into()),
                },
                _ = beat.tick() => { self.seat.session.probe(); }
                () = sleep_until(dead_at) => {
                    let limit = human::span(dead_after);
                    return (DisconnectReason::Silent, format!("no heartbeat for {limit}"));
                }
                why = self.seat.session.ended() => return ended(why),
                () = stop.cancelled() => return ended(EndReason::Stopping),
            }
        }
    }

    /// Takes in one message; returns the reason if it was a goodbye.
    fn heard(&self, kind: Option<FromAgent>) -> Option<String> {
        let mut round_trip = self.pulse.borrow().round_trip;
        let mut goodbye = None;
        match kind {
            Some(FromAgent::Pong(pong)) => {
                let sent = i64::try_from(pong.echo_unix_us).unwrap_or(i64::MAX);
                let took = Utc::now().timestamp_micros().saturating_sub(sent);
                // The agent echoes our own clock; if that was set meanwhile, the time is nonsense.
                let took = u64::try_from(took).ok().map(Duration::from_micros);
                round_trip = took.filter(|&took| took < self.gateway.session.dead_after);
                let round_trip_us =
                    round_trip.and_then(|took| u64::try_from(took.as_micros()).ok());
                trace!(event = "client.pong", client = %self.seat.client, round_trip_us, "pong");
            }
            Some(FromAgent::Transfer(update)) => self.update(update),
            Some(FromAgent::Goodbye(bye)) => goodbye = Some(human::printable(&bye.reason, 255)),
            Some(FromAgent::Hello(_)) | None => {
                debug!(client = %self.seat.client, "a message of unknown kind was ignored");
            }
        }
        self.pulse.send_replace(LastHeard { at: Utc::now(), round_trip });
        goodbye
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
        self.gateway.transfers.answer(&self.seat.client, id, update.attempt, answer);
    }
}

/// So long the last words to a silent agent may take to leave.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(250);

/// The beats of all lines fall into slots of this length: a worker that wakes up serves many.
const SLOT: Duration = Duration::from_millis(50);

/// The end of the slot into which `time` falls.
fn in_slots(time: Duration) -> Duration {
    let n_slots = time.as_nanos() / SLOT.as_nanos() + 1;
    SLOT.saturating_mul(u32::try_from(n_slots).unwrap_or(u32::MAX))
}

fn ended(why: EndReason) -> (DisconnectReason, String) {
    match why {
        EndReason::Replaced => (DisconnectReason::Replaced, "a newer line took over".into()),
        EndReason::Silent(why) => (DisconnectReason::Silent, why),
        EndReason::Stopping => (DisconnectReason::ServerRestart, "the server stopped".into()),
    }
}
