//! The Session rpc: greets an agent, sends orders, receives the answers, and notices when the agent
//! no longer responds.

use std::time::Duration;

use chrono::Utc;
use filepull_core::human;
use filepull_core::id::TransferId;
use filepull_proto::reported;
use filepull_proto::v1::agent_message::Kind as FromAgent;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{AgentMessage, Error, Hello, Pong, TransferUpdate};
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval_at, sleep, sleep_until, timeout};
use tonic::{Request, Status, Streaming};
use tracing::{Instrument as _, debug, error, info, trace};

use super::admission::{AdmissionError, AdmittedSession, Outgoing, admit, early_error};
use super::incoming::ConnectionInfo;
use super::key_exchange::KeyExchange;
use super::wire::session_end;
use super::{GREETING_LIMIT, Gateway};
use crate::client::{Disconnect, DisconnectReason};
use crate::registry::{EndReason, LastHeard, Message, SessionGuard};
use crate::transfers::Answer;

pub(crate) async fn open(
    gateway: Gateway,
    request: Request<Streaming<AgentMessage>>,
) -> Result<Outgoing, Status> {
    let info = request.extensions().get::<ConnectionInfo>().cloned();
    let connection = info.ok_or_else(|| Status::internal("an unknown connection"))?;
    let remote_addr = connection.remote_addr.ok_or_else(|| Status::internal("no address"))?;
    connection.read_budget.begin_session();
    // First of all: no message of an agent whose key admits no client is handled.
    let authenticated = gateway.authenticate(&connection).await;
    let mut messages = request.into_inner();
    let received = receive_hello(&mut messages).await;
    let hello = received.inspect_err(|status| gateway.rejections.rpc(Some(remote_addr), status))?;
    connection.read_budget.renew();
    let client_id = hello.client_id.clone();
    let instance_id = hello.instance_id.clone();
    let admission = async { admit(&gateway, authenticated?, hello, remote_addr).await };
    let admitted = tokio::select! {
        biased;
        admitted = admission => admitted,
        // Keep reading during the admission: unread data stays in memory, and an agent that closes
        // the connection needs no decision.
        early = messages.message() => Err(early_error(&early).into()),
    };
    let error = match admitted {
        Ok(AdmittedSession { guard, outgoing, heard, keys, span }) => {
            let task = SessionTask { gateway: gateway.clone(), connection, guard, heard, keys };
            gateway.lifecycle.spawn(task.run(messages).instrument(span));
            return Ok(outgoing);
        }
        Err(AdmissionError::Key(rejected)) => {
            gateway.report_peer(&client_id, Some(remote_addr), &rejected).await;
            Error::from(&rejected)
        }
        Err(AdmissionError::Other(error)) => {
            gateway.report_session(&client_id, &instance_id, remote_addr, &error).await;
            error
        }
    };
    Ok(stream::iter([Ok(session_end(error))]).boxed())
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

/// Serves one session from its welcome to its end.
struct SessionTask {
    gateway: Gateway,
    connection: ConnectionInfo,
    guard: SessionGuard,
    heard: watch::Sender<LastHeard>,
    keys: KeyExchange,
}

impl SessionTask {
    /// Receives messages and sends pings. Ends when the agent closes the session or is silent for too
    /// long, when the server ends the session, or when the process stops.
    async fn run(mut self, mut messages: Streaming<AgentMessage>) {
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

    async fn receive(
        &mut self,
        messages: &mut Streaming<AgentMessage>,
    ) -> (DisconnectReason, String) {
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
                        if let Some(reason) = self.handle(message.kind).await {
                            return (DisconnectReason::Stopped, reason);
                        }
                    }
                    Ok(None) => {
                        return (DisconnectReason::Reset, "connection closed by agent".into());
                    }
                    Err(status) => return (DisconnectReason::Reset, status.message().into()),
                },
                _ = heartbeat.tick() => {
                    self.guard.session.probe();
                    self.keys.rotate_if_old(&self.guard);
                }
                pins = self.keys.ca_pins.changed() => {
                    // An agent with a full outbox gets the pins with its next welcome.
                    let _ = self.guard.session.send(Message::CaPins(pins));
                }
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
    async fn handle(&mut self, kind: Option<FromAgent>) -> Option<String> {
        let mut round_trip = self.heard.borrow().round_trip;
        let mut goodbye = None;
        match kind {
            Some(FromAgent::Pong(pong)) => round_trip = self.round_trip(&pong),
            Some(FromAgent::Transfer(update)) => self.update(update),
            Some(FromAgent::Goodbye(bye)) => goodbye = Some(human::printable(&bye.reason, 255)),
            Some(FromAgent::PinsStored(stored)) => {
                self.keys.pins_stored(&self.guard, &stored).await;
            }
            Some(FromAgent::NewKey(new_key)) => self.keys.new_key(&self.guard, &new_key).await,
            Some(FromAgent::Hello(_)) | None => {
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
                Some(source) => {
                    let stored = source.stored.min(source.size);
                    Answer::Accepted { source: source.into(), stored }
                }
                None => return,
            },
            Some(State::Unchanged(unchanged)) => match unchanged.source {
                Some(source) => Answer::Unchanged(source.into()),
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
        EndReason::Revoked => (DisconnectReason::Refused, "its key was replaced".into()),
        EndReason::Stopping => (DisconnectReason::ServerRestart, "the server stopped".into()),
    }
}
