//! One live line: hello out, welcome in, then orders in and answers out until it ends.
//!
//! It never waits for an upload: [`Uploads`] runs those, and they outlive the line.

use std::time::{Duration, Instant, SystemTime};

use filepull_core::backoff::ReconnectPolicy;
use filepull_core::id::TransferId;
use filepull_core::problem::{Code, Problem};
use filepull_core::{bounds, human};
use filepull_process::Lifecycle;
use filepull_proto::v1::agent_control_client::AgentControlClient;
use filepull_proto::v1::agent_message::Kind as Say;
use filepull_proto::v1::server_message::Kind as Heard;
use filepull_proto::v1::transfer_update::State;
use filepull_proto::v1::{self, ErrorCode};
use filepull_proto::{drain_times, retry_after};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::dial::Dialer;
use crate::error_text;
use crate::liveness::{Liveness, LivenessError};
use crate::order::SendOrder;
use crate::status_log::{SessionHandle, StatusLog};
use crate::upload::UploadStream;
use crate::uploads::{TooMany, Uploads};

/// Pongs and answers that wait for the network. A line that cannot send 64 small messages is dead,
/// and its silence will say so: pongs that find no room are dropped.
const OUTBOX_LEN: usize = 64;

/// The server introduces itself within this time.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// A goodbye is worth this much of the time there is to stop.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// What a line tells the supervisor. After `Drain` the line goes on until the server ends it.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// The server said welcome.
    Up(ReconnectPolicy),
    /// The server wants another line in the place of this one.
    Drain { min: Duration, max: Duration },
    /// The last word.
    Over(SessionOutcome),
}

/// How a line ended, or why it did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionOutcome {
    /// The network, or a server that went away: in words.
    Lost(String),
    /// The server ended it with a reason.
    Told { code: ErrorCode, why: String, retry_after: Duration },
    /// The machine was suspended.
    Slept,
    /// We stop.
    Left,
}

/// A line to be.
#[derive(Debug)]
pub(crate) struct SessionTask {
    pub(crate) dialler: Dialer,
    pub(crate) hello: v1::Hello,
    pub(crate) uploads: Uploads,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) journal: StatusLog,
    pub(crate) news: mpsc::Sender<SessionEvent>,
}

/// A line on which the server has said welcome.
struct OpenSession<'a> {
    session: &'a SessionTask,
    line: UploadStream,
    responses: Streaming<v1::ServerMessage>,
    pulse: Liveness,
    _up: SessionHandle,
}

impl SessionTask {
    /// Opens the line and lives on it. Ends with the line, or soon after the process drains.
    pub(crate) async fn run(self) {
        let drain = self.lifecycle.drain();
        // Ends what we send with this function, although uploads hold senders of it as well.
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        let end = match drain.run_until_cancelled(self.open(over)).await {
            None => SessionOutcome::Left,
            Some(Err(end)) => end,
            Some(Ok(live)) => live.run(drain).await,
        };
        // A supervisor that has moved on does not listen any more.
        let _ = self.news.send(SessionEvent::Over(end)).await;
    }

    async fn open(&self, over: CancellationToken) -> Result<OpenSession<'_>, SessionOutcome> {
        let (answers, outbox) = mpsc::channel(OUTBOX_LEN);
        // Before the call: its response headers may wait for it.
        let _ = answers.try_send(say(Say::Hello(self.hello.clone())));
        let channel = self
            .dialler
            .dial()
            .await
            .map_err(|error| SessionOutcome::Lost(error_text::connection_error(&error)))?;
        let requests = ReceiverStream::new(outbox).take_until(over.cancelled_owned());
        let mut client =
            AgentControlClient::new(channel.clone()).max_decoding_message_size(64 * 1024);
        let unheard =
            |status: tonic::Status| SessionOutcome::Lost(error_text::handshake_error(&status));
        let responses = client.session(requests).await.map_err(unheard)?;
        let mut responses = responses.into_inner();
        let first = timeout(WELCOME_LIMIT, responses.message()).await;
        let first = first
            .map_err(|_| SessionOutcome::Lost("the server does not say welcome".to_owned()))?;
        let welcome = match first.map_err(unheard)?.map(|message| message.kind) {
            Some(Some(Heard::Welcome(welcome))) => welcome,
            Some(Some(Heard::End(end))) => return Err(told(end)),
            Some(_) => {
                return Err(SessionOutcome::Lost(
                    "the server does not begin with welcome".to_owned(),
                ));
            }
            None => return Err(SessionOutcome::Lost("the server hung up".to_owned())),
        };
        self.uploads.new_line();
        let up = self.journal.line_up();
        let policy = welcome.reconnect.map_or_else(ReconnectPolicy::default, Into::into);
        let _ = self.news.send(SessionEvent::Up(policy)).await;
        let max_chunk = bounds::chunk_len(welcome.max_chunk_bytes);
        let pulse = Liveness::new(welcome.heartbeat_ms, welcome.dead_after_ms, now());
        Ok(OpenSession {
            session: self,
            line: UploadStream { channel, answers, max_chunk },
            responses,
            pulse,
            _up: up,
        })
    }
}

impl OpenSession<'_> {
    async fn run(mut self, drain: &CancellationToken) -> SessionOutcome {
        loop {
            let look = Deadline::from_std(self.pulse.next_look());
            let message = tokio::select! {
                // First what has come: a process that was frozen finds its pings waiting.
                biased;
                message = self.responses.message() => message,
                () = drain.cancelled() => return self.leave().await,
                () = tokio::time::sleep_until(look) => match self.pulse.look(now()) {
                    None => continue,
                    Some(LivenessError::Slept) => return SessionOutcome::Slept,
                    Some(LivenessError::Silence(time)) => {
                        return SessionOutcome::Lost(format!("no heartbeat for {}", human::span(time)));
                    }
                },
            };
            match message {
                Err(status) => return lost(&status),
                Ok(None) => return SessionOutcome::Lost("the server hung up".to_owned()),
                Ok(Some(message)) => {
                    self.pulse.heard(Instant::now());
                    if let Some(end) = self.hear(message).await {
                        return end;
                    }
                }
            }
        }
    }

    async fn hear(&mut self, message: v1::ServerMessage) -> Option<SessionOutcome> {
        match message.kind {
            Some(Heard::Ping(v1::Ping { seq, sent_unix_us })) => {
                let pong = v1::Pong { seq, echo_unix_us: sent_unix_us };
                let _ = self.line.answers.try_send(say(Say::Pong(pong)));
            }
            Some(Heard::Start(start)) => self.start(start),
            Some(Heard::Cancel(cancel)) => match TransferId::parse(&cancel.transfer_id) {
                Ok(transfer) => self.session.uploads.cancel(transfer, &cancel.reason),
                Err(error) => tracing::debug!(%error, "cancel ignored"),
            },
            Some(Heard::Drain(drain)) => {
                let (min, max) = drain_times(drain);
                let _ = self.session.news.send(SessionEvent::Drain { min, max }).await;
            }
            Some(Heard::End(end)) => return Some(told(end)),
            // A newer server may say what we do not know yet.
            Some(Heard::Welcome(_)) | None => tracing::debug!("message of unknown kind ignored"),
        }
        None
    }

    fn start(&self, start: v1::StartTransfer) {
        let (transfer, attempt) = (human::printable(&start.transfer_id, 64), start.attempt);
        let started = match SendOrder::try_from(start) {
            Ok(order) => self.session.uploads.start(order, self.line.clone()),
            Err(problem) => return self.refuse(transfer, attempt, (&problem).into()),
        };
        if let Err(TooMany) = started {
            let problem = Problem::new(Code::ServerBusy, "The agent sends too many files already.");
            let error = v1::Error { retryable: true, ..v1::Error::from(&problem) };
            self.refuse(transfer, attempt, error);
        }
    }

    fn refuse(&self, transfer_id: String, attempt: u32, error: v1::Error) {
        tracing::debug!(transfer = transfer_id, error = error.message, "order refused");
        let state = Some(State::Failed(error));
        let update = v1::TransferUpdate { transfer_id, attempt, state };
        let _ = self.line.answers.try_send(say(Say::Transfer(update)));
    }

    /// Says goodbye, and waits a moment for the server to have heard it.
    async fn leave(mut self) -> SessionOutcome {
        let goodbye = v1::Goodbye { reason: "the agent was stopped".to_owned() };
        let _ = self.line.answers.try_send(say(Say::Goodbye(goodbye)));
        let hung_up = async { while let Ok(Some(_)) = self.responses.message().await {} };
        let _ = timeout(GOODBYE_LIMIT, hung_up).await;
        SessionOutcome::Left
    }
}

fn say(kind: Say) -> v1::AgentMessage {
    v1::AgentMessage { kind: Some(kind) }
}

fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

fn lost(status: &tonic::Status) -> SessionOutcome {
    SessionOutcome::Lost(error_text::connection_error(status))
}

fn told(end: v1::SessionEnd) -> SessionOutcome {
    let error = end.error.unwrap_or_default();
    let why = match human::printable(&error.message, 300) {
        empty if empty.is_empty() => "the server ended the line".to_owned(),
        why => why,
    };
    let retry_after = retry_after(&error);
    SessionOutcome::Told { code: error.code(), why, retry_after }
}
