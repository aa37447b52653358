//! One file out: the answer to an order, and the `Upload` rpc that carries the bytes.
//!
//! The file is opened by [`share`](crate::share) and read by [`read`](crate::read) on a thread of
//! its own; here its messages meet the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use filepull_core::id::ClientId;
use filepull_core::pace::Pace;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Consistency;
use filepull_core::{CHUNK_LEN, human};
use filepull_proto::answered;
use filepull_proto::v1::agent_transfer_client::AgentTransferClient;
use filepull_proto::v1::transfer_update::{Accepted, State};
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response::Kind as Said;
use filepull_proto::v1::{self, ErrorCode};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking, yield_now};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::block_sender::{Chunker, FirstMessage, outlet};
use crate::error_text;
use crate::order::SendOrder;
use crate::read::{ReadError, Reader, SIGN_OF_LIFE_EVERY};
use crate::share::{OpenFile, Shares};
use crate::status_log::StatusLog;
use crate::upload_connections::UploadConnections;

/// An order is answered within 10 s, even if the disk is a network drive that hangs.
const OPEN_LIMIT: Duration = Duration::from_secs(8);

/// What every upload of this agent needs.
#[derive(Debug)]
pub(crate) struct UploadContext {
    pub(crate) client: ClientId,
    pub(crate) shares: Arc<Shares>,
    pub(crate) max_rate: Option<u64>,
    pub(crate) consistency: Consistency,
    pub(crate) data: UploadConnections,
    pub(crate) journal: StatusLog,
}

/// The line that an order came on, as far as its upload needs it.
#[derive(Clone, Debug)]
pub(crate) struct UploadStream {
    pub(crate) channel: Channel,
    pub(crate) answers: mpsc::Sender<v1::AgentMessage>,
    pub(crate) max_chunk: u32,
}

impl UploadStream {
    /// Says what became of an order. If the line is gone, nobody waits for it any more.
    pub(crate) async fn answer(&self, transfer: String, attempt: u32, state: State) {
        let update = v1::TransferUpdate { transfer_id: transfer, attempt, state: Some(state) };
        let kind = Some(v1::agent_message::Kind::Transfer(update));
        let _ = self.answers.send(v1::AgentMessage { kind }).await;
    }
}

/// How an upload ended.
enum UploadOutcome {
    Stored,
    /// One of both sides will not have it as it is.
    Refused(Problem),
    /// The network failed, in words: another attempt can help.
    Broken(String),
}

/// Opens, answers, sends and reports. It may be dropped at any time once `stop` is cancelled.
pub(crate) async fn upload(
    context: &UploadContext,
    order: SendOrder,
    line: UploadStream,
    stop: &CancellationToken,
) {
    let journal = &context.journal;
    let (transfer, attempt, about) = (order.transfer.to_string(), order.attempt, order.about());
    let opened = match context.open(&order).await {
        Ok(opened) => opened,
        Err(problem) => {
            journal.warn(&refusal(context, &order, &problem));
            return line.answer(transfer, attempt, State::Failed((&problem).into())).await;
        }
    };
    if order.path.is_none() {
        journal.looked(None);
    }
    let name = opened.source.name.clone();
    line.answer(transfer.clone(), attempt, accepted(&opened)).await;
    // It leaves before the file is read: somebody waits for it.
    yield_now().await;
    match context.send(order, opened, &line, stop).await {
        UploadOutcome::Stored => {}
        UploadOutcome::Refused(problem) if problem.code == Code::Cancelled => {
            journal.info(&format!("stopped sending {name}: cancelled {about}"));
        }
        UploadOutcome::Refused(problem) => {
            journal.warn(&format!("could not send {name}: {} {about}", problem.detail));
        }
        UploadOutcome::Broken(why) => {
            journal.warn(&format!("could not send {name} to its end: {why} {about}"));
            let error = Problem::new(Code::AgentError, format!("the upload broke: {why}"));
            let error = v1::Error { retryable: true, ..v1::Error::from(&error) };
            line.answer(transfer, attempt, State::Failed(error)).await;
        }
    }
}

impl UploadContext {
    async fn open(&self, order: &SendOrder) -> Result<OpenFile, Problem> {
        let (shares, client) = (Arc::clone(&self.shares), self.client.clone());
        let path = order.path.clone();
        let opening = spawn_blocking(move || shares.open(&client, path.as_ref()));
        let opened = match timeout(OPEN_LIMIT, opening).await {
            Ok(Ok(opened)) => opened?,
            Ok(Err(_panicked)) => return Err(self.unreadable(order, "a mistake of the agent")),
            Err(_elapsed) => return Err(self.unreadable(order, "the disk does not answer")),
        };
        let (size, name) = (opened.source.size, &opened.source.name);
        match order.max_size {
            Some(max) if max < size => {
                let (size, max) = (human::size(size), human::size(max));
                let detail = format!("{name} has {size}; the server accepts {max} at most.");
                Err(Problem::new(Code::FileTooLarge, detail))
            }
            _ => Ok(opened),
        }
    }

    fn unreadable(&self, order: &SendOrder, why: &str) -> Problem {
        let detail = format!("{} cannot read {}: {why}.", self.client, self.name(order));
        Problem::new(Code::FileUnreadable, detail)
    }

    fn name<'a>(&'a self, order: &'a SendOrder) -> &'a str {
        order.path.as_ref().map_or(self.shares.default_name(), |path| path.as_str())
    }

    /// Sends the open file and waits for the server's word on it.
    async fn send(
        &self,
        order: SendOrder,
        opened: OpenFile,
        line: &UploadStream,
        stop: &CancellationToken,
    ) -> UploadOutcome {
        let begun = Instant::now();
        let (name, size, about) = (opened.source.name.clone(), opened.source.size, order.about());
        let stop = stop.child_token();
        // Whatever ends this function ends the reader.
        let _stop_reader = stop.clone().drop_guard();
        let (transfer, attempt, accepted) =
            (order.transfer.to_string(), order.attempt, accepted(&opened));
        let (mut messages, reading) = self.read(order, opened, line.max_chunk, stop.clone());
        // The proof of a prefix takes as long as the disk does: the rpc begins when it is done, and
        // until then the order is accepted again and again.
        let header = loop {
            match messages.first().await {
                Some(FirstMessage::Message(header)) => break header,
                Some(FirstMessage::Proving) => {
                    line.answer(transfer.clone(), attempt, accepted.clone()).await;
                }
                None => return UploadOutcome::Broken("the reader broke off".to_owned()),
            }
        };
        let offset = offset_of(&header);
        let how_much = format!("{}{}", human::size(size), from(offset));
        self.journal.info(&format!("sending {name}, {how_much} {about}"));
        let requests = tokio_stream::once(header).chain(messages.rest());
        let lent = self.data.borrow(&line.channel, size - offset);
        let answer = answer(lent.channel(), requests).await;
        stop.cancel();
        let read = reading.await.unwrap_or(Err(ReadError::Stopped));
        match &answer {
            Err(UploadOutcome::Broken(_)) => self.data.forget(),
            Ok(_) | Err(UploadOutcome::Stored | UploadOutcome::Refused(_)) => {
                self.data.give_back(lent)
            }
        }
        match (read, answer) {
            // Our own reason is nearer to the cause than what the server made of it.
            (Err(ReadError::Failed(problem)), _) => UploadOutcome::Refused(problem),
            (_, Err(ended)) => ended,
            (_, Ok(stored)) => {
                self.journal.sent(&name, &stored.name, size - offset, begun.elapsed());
                UploadOutcome::Stored
            }
        }
    }

    /// Starts the reader, which ends by itself, with `stop`, or when nobody takes its messages.
    fn read(
        &self,
        order: SendOrder,
        opened: OpenFile,
        max_chunk: u32,
        stop: CancellationToken,
    ) -> (Chunker, JoinHandle<Result<(), ReadError>>) {
        let chunk_len = CHUNK_LEN.min(usize::try_from(max_chunk).unwrap_or(CHUNK_LEN));
        let (outlet, messages) = outlet(chunk_len, self.pace(&order), stop);
        let (client, consistency) = (self.client.clone(), self.consistency);
        let sign_every = SIGN_OF_LIFE_EVERY;
        let reader = Reader { client, opened, order, consistency, sign_every };
        (messages, spawn_blocking(move || outlet.drive(&reader)))
    }

    /// The slower of both limits holds.
    fn pace(&self, order: &SendOrder) -> Option<Pace> {
        let rate = self.max_rate.into_iter().chain(order.max_rate).min()?;
        Some(Pace::new(rate, Instant::now()))
    }
}

fn accepted(opened: &OpenFile) -> State {
    State::Accepted(Accepted { source: Some((&opened.source).into()) })
}

/// Carries out one rpc: resolves when the server has said its last word, or cannot.
async fn answer(
    channel: Channel,
    requests: impl tokio_stream::Stream<Item = v1::UploadRequest> + Send + 'static,
) -> Result<v1::Stored, UploadOutcome> {
    let broken =
        |status: &tonic::Status| UploadOutcome::Broken(error_text::connection_error(status));
    let mut client = AgentTransferClient::new(channel).max_decoding_message_size(64 * 1024);
    let mut responses = client.upload(requests).await.map_err(|s| broken(&s))?.into_inner();
    loop {
        match responses.message().await.map_err(|s| broken(&s))?.map(|message| message.kind) {
            Some(Some(Said::Stored(stored))) => return Ok(stored),
            Some(Some(Said::Error(error))) if error.code() == ErrorCode::UnknownTransfer => {
                // This connection does not lead to the server that gave the order.
                let why = human::printable(&error.message, 200);
                return Err(UploadOutcome::Broken(format!("the server does not know it: {why}")));
            }
            Some(Some(Said::Error(error))) => return Err(UploadOutcome::Refused(answered(&error))),
            Some(Some(Said::Ack(_)) | None) => {}
            None => {
                return Err(UploadOutcome::Broken("the server ended it without a word".to_owned()));
            }
        }
    }
}

fn offset_of(first: &v1::UploadRequest) -> u64 {
    match &first.kind {
        Some(Kind::Header(header)) => header.offset,
        Some(Kind::Chunk(_) | Kind::Trailer(_) | Kind::Abort(_)) | None => 0,
    }
}

fn from(offset: u64) -> String {
    if offset == 0 { String::new() } else { format!(" from {} on", human::size(offset)) }
}

fn refusal(context: &UploadContext, order: &SendOrder, problem: &Problem) -> String {
    let name = human::printable(context.name(order), 200);
    let about = order.about();
    if problem.code == Code::PathNotShared && !context.shares.lists(order.path.as_ref()) {
        return format!("refused to send {name}: not shared {about}");
    }
    format!("refused to send {name}: {} {about}", problem.detail.trim_end_matches('.'))
}
