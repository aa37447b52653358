//! One session: hello and welcome, then orders in and answers out until it ends.
//!
//! A session never waits for an upload: [`Uploads`] runs them, and they outlive the session.

use std::time::{Duration, Instant, SystemTime};

use filepull_core::backoff::ReconnectPolicy;
use filepull_core::extent::ExtentKinds;
use filepull_core::id::TransferId;
use filepull_core::problem::{Code, Problem};
use filepull_core::{bounds, human};
use filepull_process::Lifecycle;
use filepull_proto::v1::agent_control_client::AgentControlClient;
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{self, ErrorCode};
use filepull_proto::{drain_times, retry_after};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::credentials::Credentials;
use crate::diagnosis::{Diagnosis, DiagnosisCode};
use crate::error_text;
use crate::liveness::{Liveness, LivenessError};
use crate::order::SendOrder;
use crate::server_rejection;
use crate::status_log::{ConnectedGuard, StatusLog};
use crate::trust_messages::TrustMessages;
use crate::upload::SessionHandle;
use crate::upload_connections::AgentChannel;
use crate::uploads::{TooManyUploads, Uploads};

/// Pongs and answers that wait for the network. If the queue is full a pong is dropped: a session
/// that cannot send 64 small messages is broken, and the server's timeout ends it.
const OUTBOX_LEN: usize = 64;

/// How long the server may take to send its welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a goodbye may delay the end of the agent.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a session reports to the supervisor. After `Drain` it continues until the server ends it.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// The server has sent its welcome.
    Connected(ReconnectPolicy),
    /// The server requests a new session that replaces this one.
    Drain {
        min: Duration,
        max: Duration,
    },
    Ended(SessionOutcome),
}

/// Why a session ended or could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionOutcome {
    /// The network or the server failed, for this reason.
    Lost(Diagnosis),
    /// The server ended the session.
    EndedByServer {
        failure: Diagnosis,
        code: ErrorCode,
        retry_after: Duration,
    },
    Suspended,
    Stopped,
}

/// A session that is not open yet.
#[derive(Debug)]
pub(crate) struct SessionTask {
    pub(crate) credentials: Credentials,
    pub(crate) hello: v1::Hello,
    pub(crate) uploads: Uploads,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) status_log: StatusLog,
    pub(crate) events: mpsc::Sender<SessionEvent>,
}

/// A session for which the server has sent its welcome.
struct OpenSession<'a> {
    task: &'a SessionTask,
    handle: SessionHandle,
    messages: Streaming<v1::ServerMessage>,
    liveness: Liveness,
    trust: TrustMessages,
    _connected: ConnectedGuard,
}

impl SessionTask {
    /// Opens the session and runs it. Ends with the session, or soon after the process drains.
    pub(crate) async fn run(self) {
        let drain = self.lifecycle.drain();
        // Closes the outgoing stream at the end of this function, although uploads still have
        // senders.
        let ended = CancellationToken::new();
        let _ended = ended.clone().drop_guard();
        let outcome = match drain.run_until_cancelled(self.open(ended)).await {
            None => SessionOutcome::Stopped,
            Some(Err(outcome)) => outcome,
            Some(Ok(session)) => session.run(drain).await,
        };
        // After a drain the supervisor no longer receives the events of this session.
        let _ = self.events.send(SessionEvent::Ended(outcome)).await;
    }

    async fn open(&self, ended: CancellationToken) -> Result<OpenSession<'_>, SessionOutcome> {
        let (outbox, outgoing) = mpsc::channel(OUTBOX_LEN);
        // Sent before the call: the server may wait for the hello before it sends response headers.
        let _ = outbox.try_send(message(ToServer::Hello(self.hello.clone())));
        // The key first: one that is replaced meanwhile belongs to a later connection.
        let key = self.credentials.key();
        let channel = self
            .credentials
            .dialer()
            .dial()
            .await
            .map_err(|error| SessionOutcome::Lost(error_text::connection_error(&error)))?;
        let requests = ReceiverStream::new(outgoing).take_until(ended.clone().cancelled_owned());
        let mut client =
            AgentControlClient::new(channel.clone()).max_decoding_message_size(64 * 1024);
        let responses = client.session(requests).await.map_err(|status| not_opened(&status))?;
        let mut messages = responses.into_inner();
        let welcome = self.receive_welcome(&mut messages).await?;
        tracing::Span::current().record("id", human::printable(&welcome.session_id, 64));
        self.uploads.on_new_session();
        let connected = self.status_log.open_session();
        let policy = welcome.reconnect.map_or_else(ReconnectPolicy::default, Into::into);
        let _ = self.events.send(SessionEvent::Connected(policy)).await;
        let extents = ExtentKinds::from_capabilities(&welcome.capabilities);
        let max_chunk = bounds::chunk_len(welcome.max_chunk_bytes);
        let liveness = Liveness::new(welcome.heartbeat_ms, welcome.dead_after_ms, now());
        let mut trust = self.trust_messages(welcome.session_id, outbox.clone(), ended);
        trust.on_welcome(welcome.ca_pins.as_ref());
        Ok(OpenSession {
            task: self,
            handle: SessionHandle {
                channel: AgentChannel { channel, key },
                outbox,
                max_chunk,
                extents,
            },
            messages,
            liveness,
            trust,
            _connected: connected,
        })
    }

    async fn receive_welcome(
        &self,
        messages: &mut Streaming<v1::ServerMessage>,
    ) -> Result<v1::Welcome, SessionOutcome> {
        let first = timeout(WELCOME_TIMEOUT, messages.message())
            .await
            .map_err(|_| lost(DiagnosisCode::TimedOut, "the server sends no welcome"))?;
        match first.map_err(|status| not_opened(&status))?.map(|message| message.kind) {
            Some(Some(FromServer::Welcome(welcome))) => Ok(welcome),
            Some(Some(FromServer::End(end))) => Err(self.ended_by_server(end)),
            Some(_) => {
                let text = "the first message of the server is not a welcome";
                Err(lost(DiagnosisCode::Other, text))
            }
            None => Err(lost(DiagnosisCode::Closed, "connection closed by server")),
        }
    }

    fn trust_messages(
        &self,
        session_id: String,
        outbox: mpsc::Sender<v1::AgentMessage>,
        ended: CancellationToken,
    ) -> TrustMessages {
        TrustMessages {
            credentials: self.credentials.clone(),
            session_id,
            outbox,
            events: self.events.clone(),
            uploads: self.uploads.clone(),
            status_log: self.status_log.clone(),
            lifecycle: self.lifecycle.clone(),
            ended,
            rotation: None,
        }
    }

    fn ended_by_server(&self, end: v1::SessionEnd) -> SessionOutcome {
        let error = end.error.unwrap_or_default();
        SessionOutcome::EndedByServer {
            failure: server_rejection::failure(&error, &self.credentials, &self.hello.client_id),
            code: error.code(),
            retry_after: retry_after(&error),
        }
    }
}

impl OpenSession<'_> {
    async fn run(mut self, drain: &CancellationToken) -> SessionOutcome {
        loop {
            let next_check = Deadline::from_std(self.liveness.next_check());
            let received = tokio::select! {
                // Messages first: a process that was stopped finds its pings in the queue.
                biased;
                received = self.messages.message() => received,
                () = drain.cancelled() => return self.close().await,
                () = tokio::time::sleep_until(next_check) => match self.liveness.check(now()) {
                    None => continue,
                    Some(LivenessError::Suspended) => return SessionOutcome::Suspended,
                    Some(LivenessError::Silence(time)) => {
                        let text = format!("no heartbeat for {}", human::span(time));
                        return lost(DiagnosisCode::TimedOut, &text);
                    }
                },
            };
            match received {
                Err(status) => {
                    return SessionOutcome::Lost(error_text::connection_error(&status));
                }
                Ok(None) => return lost(DiagnosisCode::Closed, "connection closed by server"),
                Ok(Some(message)) => {
                    self.liveness.on_message(Instant::now());
                    if let Some(outcome) = self.handle_message(message).await {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Returns the outcome if the message ends the session.
    async fn handle_message(&mut self, message: v1::ServerMessage) -> Option<SessionOutcome> {
        match message.kind {
            Some(FromServer::Ping(v1::Ping { seq, sent_unix_us })) => {
                self.send(ToServer::Pong(v1::Pong { seq, echo_unix_us: sent_unix_us }));
            }
            Some(FromServer::Start(start)) => self.start(&start),
            Some(FromServer::Cancel(cancel)) => match TransferId::parse(&cancel.transfer_id) {
                Ok(transfer) => self.task.uploads.cancel(transfer, &cancel.reason),
                Err(error) => tracing::debug!(event = "cancel.ignored", %error, "cancel ignored"),
            },
            Some(FromServer::Drain(drain)) => {
                let (min, max) = drain_times(drain);
                let _ = self.task.events.send(SessionEvent::Drain { min, max }).await;
            }
            Some(FromServer::End(end)) => return Some(self.task.ended_by_server(end)),
            Some(FromServer::CaPins(pins)) => self.trust.on_pins(&pins),
            Some(FromServer::RotateKey(v1::RotateKey {})) => self.trust.rotate_key(),
            Some(FromServer::KeyAccepted(accepted)) => self.trust.on_key_accepted(&accepted),
            // A newer server may send kinds that this version does not know.
            Some(FromServer::Welcome(_)) | None => {
                tracing::debug!(event = "message.ignored", "unexpected kind of message ignored");
            }
        }
        None
    }

    fn start(&self, start: &v1::StartTransfer) {
        let transfer = human::printable(&start.transfer_id, 64);
        let attempt = start.attempt;
        let started = match SendOrder::try_from(start.clone()) {
            Ok(order) => self.task.uploads.start(order, self.handle.clone()),
            Err(problem) => {
                self.task.uploads.log_refusal(start, &problem.detail);
                return self.reject(transfer, attempt, (&problem).into());
            }
        };
        if let Err(TooManyUploads) = started {
            let problem = Problem::new(Code::ServerBusy, "The agent is sending too many files.");
            let error = v1::Error { retryable: true, ..v1::Error::from(&problem) };
            self.reject(transfer, attempt, error);
        }
    }

    fn reject(&self, transfer_id: String, attempt: u32, error: v1::Error) {
        let reason = &error.message;
        tracing::debug!(event = "order.rejected", transfer_id, attempt, reason, "order rejected");
        let state = Some(State::Failed(error));
        self.send(ToServer::Transfer(v1::TransferUpdate { transfer_id, attempt, state }));
    }

    /// Queues a message. If the outbox is full the message is dropped.
    fn send(&self, kind: ToServer) {
        let _ = self.handle.outbox.try_send(message(kind));
    }

    /// Sends a goodbye, and waits until the server closes the session, for at most
    /// [`GOODBYE_TIMEOUT`].
    async fn close(mut self) -> SessionOutcome {
        let reason = "the agent was stopped".to_owned();
        self.send(ToServer::Goodbye(v1::Goodbye { reason }));
        let closed = async { while let Ok(Some(_)) = self.messages.message().await {} };
        let _ = timeout(GOODBYE_TIMEOUT, closed).await;
        SessionOutcome::Stopped
    }
}

fn message(kind: ToServer) -> v1::AgentMessage {
    v1::AgentMessage { kind: Some(kind) }
}

fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// Returns the outcome of a session that failed before the welcome.
fn not_opened(status: &Status) -> SessionOutcome {
    SessionOutcome::Lost(error_text::handshake_error(status))
}

fn lost(code: DiagnosisCode, text: &str) -> SessionOutcome {
    SessionOutcome::Lost(Diagnosis::new(code, text))
}
