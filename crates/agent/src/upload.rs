//! One upload: the answer to an order, and the `Upload` rpc that carries the bytes.
//!
//! [`share`](crate::share) opens the file, and [`read`](crate::read) reads it on its own thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use filepull_core::extent::ExtentKinds;
use filepull_core::id::ClientId;
use filepull_core::pace::Pace;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Consistency;
use filepull_core::{CHUNK_LEN, human};
use filepull_proto::v1;
use filepull_proto::v1::transfer_update::{Accepted, State, Unchanged};
use filepull_proto::v1::upload_request::Kind;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking, yield_now};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::chunker::{Chunker, FirstMessage, block_channel};
use crate::cpu_limit::CpuLimit;
use crate::order::SendOrder;
use crate::read::{KEEPALIVE_INTERVAL, LIST_TIMEOUT, ReadError, Reader};
use crate::receipt::ReceiptDraft;
use crate::server_answers::{AnswerSender, answer_channel};
use crate::share::{OpenFile, Shares};
use crate::status_log::{SentSizes, StatusLog};
use crate::transfer_log::{OrderText, SentBytes, TransferEvent, TransferLog};
use crate::upload_call::{UploadError, call_upload};
use crate::upload_connections::{AgentChannel, UploadConnections};

/// How long the disk may take to open a file. Shorter than the 10 s within which an order must be
/// answered, even if a network drive hangs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);

/// What all uploads of this agent share.
#[derive(Debug)]
pub(crate) struct UploadContext {
    pub(crate) client: ClientId,
    pub(crate) shares: Arc<Shares>,
    pub(crate) max_rate: Option<u64>,
    pub(crate) cpu_limit: Option<CpuLimit>,
    pub(crate) consistency: Consistency,
    pub(crate) connections: UploadConnections,
    pub(crate) status_log: StatusLog,
    pub(crate) transfer_log: TransferLog,
}

/// The part of a session that its uploads use.
#[derive(Clone, Debug)]
pub(crate) struct SessionHandle {
    pub(crate) channel: AgentChannel,
    pub(crate) outbox: mpsc::Sender<v1::AgentMessage>,
    /// The longest chunk that the server accepts, in bytes.
    pub(crate) max_chunk: u32,
    /// The extents that the server accepts.
    pub(crate) extents: ExtentKinds,
}

impl SessionHandle {
    /// Sends the answer to an order. Does nothing if the session has ended.
    async fn answer(&self, transfer: String, attempt: u32, state: State) {
        let update = v1::TransferUpdate { transfer_id: transfer, attempt, state: Some(state) };
        let kind = Some(v1::agent_message::Kind::Transfer(update));
        let _ = self.outbox.send(v1::AgentMessage { kind }).await;
    }
}

/// How an order ended that was carried out.
enum OrderOutcome {
    /// The server has stored the upload.
    Sent,
    /// The server has the file already.
    Unchanged,
}

/// Opens the file, answers the order, sends the file and reports the outcome. The future may be
/// dropped once `stop` is cancelled.
pub(crate) async fn upload(
    context: &UploadContext,
    order: SendOrder,
    session: SessionHandle,
    stop: &CancellationToken,
) {
    let status_log = &context.status_log;
    let transfer = order.transfer.to_string();
    let attempt = order.attempt;
    let about = order.about();
    let open_file = match context.open(&order).await {
        Ok(open_file) => open_file,
        Err(problem) => {
            status_log.warn(&rejection_text(context, &order, &problem));
            context.transfer_log.refuse(context.text(&order, &transfer), &problem.detail);
            return session.answer(transfer, attempt, State::Failed((&problem).into())).await;
        }
    };
    if order.path.is_none() {
        status_log.set_file_problem(None);
    }
    let name = open_file.source.name.clone();
    let source = Some(open_file.source_info(session.extents));
    session.answer(transfer.clone(), attempt, State::Accepted(Accepted { source })).await;
    // Sends the answer before the file is read: a trigger may be waiting for it.
    yield_now().await;
    let sent = SentBytes::default();
    let size = open_file.source.size;
    let order_text = context.text(&order, &transfer);
    let record = context.transfer_log.start(order_text, size, Arc::clone(&sent)).await;
    match context.send(order, open_file, sent, &session, stop).await {
        Ok(OrderOutcome::Sent) => record.end(TransferEvent::Sent, ""),
        Ok(OrderOutcome::Unchanged) => record.end(TransferEvent::Unchanged, ""),
        Err(UploadError::Rejected(problem)) if problem.code == Code::Cancelled => {
            record.end(TransferEvent::Stopped, "cancelled");
            status_log.info(&format!("stopped sending {name}: cancelled {about}"));
        }
        Err(UploadError::Rejected(problem)) => {
            record.end(TransferEvent::Failed, &problem.detail);
            status_log.warn(&format!("could not send {name}: {} {about}", problem.detail));
        }
        Err(UploadError::Failed(reason)) => {
            record.end(TransferEvent::Failed, &reason);
            status_log.warn(&format!("could not send {name} completely: {reason} {about}"));
            let problem = Problem::new(Code::AgentError, format!("the upload failed: {reason}"));
            let error = v1::Error { retryable: true, ..v1::Error::from(&problem) };
            session.answer(transfer, attempt, State::Failed(error)).await;
        }
    }
}

/// A file that is being read.
struct ReadingFile {
    chunker: Chunker,
    server_answers: AnswerSender,
    reader: JoinHandle<Result<(), ReadError>>,
}

/// Answers one order whose file is open.
struct OrderAnswers<'a> {
    session: &'a SessionHandle,
    transfer: String,
    attempt: u32,
    source: v1::SourceInfo,
}

impl UploadContext {
    async fn open(&self, order: &SendOrder) -> Result<OpenFile, Problem> {
        let shares = Arc::clone(&self.shares);
        let client = self.client.clone();
        let path = order.path.clone();
        let opening = spawn_blocking(move || shares.open(&client, path.as_ref()));
        let open_file = match timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(opened)) => opened?,
            Ok(Err(_panic)) => return Err(self.unreadable(order, "internal error in the agent")),
            Err(_elapsed) => return Err(self.unreadable(order, "the disk does not respond")),
        };
        let size = open_file.source.size;
        match order.max_size {
            Some(max) if max < size => {
                let name = &open_file.source.name;
                let size = human::size(size);
                let max = human::size(max);
                let detail = format!("{name} has {size}; the server accepts {max} at most.");
                Err(Problem::new(Code::FileTooLarge, detail))
            }
            _ => Ok(open_file),
        }
    }

    fn unreadable(&self, order: &SendOrder, reason: &str) -> Problem {
        let detail = format!("{} cannot read {}: {reason}.", self.client, self.name(order));
        Problem::new(Code::FileUnreadable, detail)
    }

    /// Returns what the log of transfers records about an order.
    fn text<'a>(&'a self, order: &'a SendOrder, transfer: &'a str) -> OrderText<'a> {
        OrderText::new(order, transfer, self.name(order))
    }

    fn name<'a>(&'a self, order: &'a SendOrder) -> &'a str {
        order.path.as_ref().map_or(self.shares.default_name(), |path| path.as_str())
    }

    /// Sends the open file, and waits for the response of the server.
    async fn send(
        &self,
        order: SendOrder,
        open_file: OpenFile,
        sent: SentBytes,
        session: &SessionHandle,
        stop: &CancellationToken,
    ) -> Result<OrderOutcome, UploadError> {
        let start = Instant::now();
        let name = open_file.source.name.clone();
        let size = open_file.source.size;
        let about = order.about();
        let receipt = ReceiptDraft::new(&self.client, &order, &open_file.source, self.consistency);
        let answers = OrderAnswers::new(session, &order, &open_file);
        let stop = stop.child_token();
        // The reader ends with this function, even if the future is dropped.
        let _stop_reader = stop.clone().drop_guard();
        let ReadingFile { mut chunker, server_answers, reader } =
            self.read(order, open_file, Arc::clone(&sent), session, stop.clone());
        let Some(header) = answers.until_header(&mut chunker).await? else {
            self.status_log.info(&format!("{name} is unchanged: nothing to send {about}"));
            return Ok(OrderOutcome::Unchanged);
        };
        let offset = offset_of(&header);
        let range = format!("{}{}", human::size(size), from_offset(offset));
        self.status_log.info(&format!("sending {name}, {range} {about}"));
        let connection = self.connections.acquire(&session.channel, size - offset);
        let AgentChannel { channel, key } = connection.channel().clone();
        let receipt = receipt.signed_by(key);
        let messages = tokio_stream::once(header)
            .chain(chunker.rest())
            .map(move |message| receipt.sign(message));
        let response = call_upload(channel, messages, server_answers).await;
        stop.cancel();
        let read = reader.await.unwrap_or(Err(ReadError::Stopped));
        if let Err(UploadError::Failed(_)) = &response {
            self.connections.discard();
        } else {
            self.connections.release(connection);
        }
        if let Err(ReadError::Failed(problem)) = read {
            // The agent's own problem is more precise than the server's response to it.
            return Err(UploadError::Rejected(problem));
        }
        let bytes = SentSizes { file: size, upload: size - offset, sent: sent.load(Relaxed) };
        self.status_log.log_sent(&name, &response?.name, bytes, start.elapsed());
        Ok(OrderOutcome::Sent)
    }

    /// Starts the reader. It ends with the file, at `stop`, or when the chunker is dropped.
    fn read(
        &self,
        order: SendOrder,
        open_file: OpenFile,
        sent: SentBytes,
        session: &SessionHandle,
        stop: CancellationToken,
    ) -> ReadingFile {
        let max_chunk = usize::try_from(session.max_chunk).unwrap_or(CHUNK_LEN);
        let (blocks, chunker) =
            block_channel(CHUNK_LEN.min(max_chunk), self.pace(&order), sent, stop);
        let (server_answers, mut answers) = answer_channel();
        let reader = Reader {
            client: self.client.clone(),
            open_file,
            order,
            consistency: self.consistency,
            extents: session.extents,
            keepalive_interval: KEEPALIVE_INTERVAL,
            list_timeout: LIST_TIMEOUT,
        };
        let cpu_limit = self.cpu_limit.clone();
        let reader = spawn_blocking(move || blocks.run(&reader, &mut answers, cpu_limit.as_ref()));
        ReadingFile { chunker, server_answers, reader }
    }

    /// Returns the lower of the limits of the agent and of the server.
    fn pace(&self, order: &SendOrder) -> Option<Pace> {
        let rate = self.max_rate.into_iter().chain(order.max_rate).min()?;
        Some(Pace::new(rate, Instant::now()))
    }
}

impl<'a> OrderAnswers<'a> {
    fn new(session: &'a SessionHandle, order: &SendOrder, open_file: &OpenFile) -> Self {
        let transfer = order.transfer.to_string();
        let source = open_file.source_info(session.extents);
        Self { session, transfer, attempt: order.attempt, source }
    }

    /// Returns the first message of the upload; none if the file is unchanged, which the server is told.
    ///
    /// The rpc starts when the begin of the file has been compared, which takes as long as the disk
    /// needs. Until then `accepted` is sent repeatedly, as a keepalive.
    async fn until_header(
        &self,
        chunker: &mut Chunker,
    ) -> Result<Option<v1::UploadRequest>, UploadError> {
        loop {
            let source = Some(self.source.clone());
            match chunker.first().await {
                Some(FirstMessage::Message(header)) => return Ok(Some(header)),
                Some(FirstMessage::Proving) => {
                    self.send(State::Accepted(Accepted { source })).await;
                }
                Some(FirstMessage::Unchanged) => {
                    self.send(State::Unchanged(Unchanged { source })).await;
                    return Ok(None);
                }
                None => return Err(UploadError::Failed("the reader stopped".to_owned())),
            }
        }
    }

    async fn send(&self, state: State) {
        self.session.answer(self.transfer.clone(), self.attempt, state).await;
    }
}

fn offset_of(first: &v1::UploadRequest) -> u64 {
    if let Some(Kind::Header(header)) = &first.kind { header.offset } else { 0 }
}

fn from_offset(offset: u64) -> String {
    if offset == 0 { String::new() } else { format!(" from offset {}", human::size(offset)) }
}

fn rejection_text(context: &UploadContext, order: &SendOrder, problem: &Problem) -> String {
    let name = human::printable(context.name(order), 200);
    let about = order.about();
    if problem.code == Code::PathNotShared && !context.shares.lists(order.path.as_ref()) {
        return format!("refused to send {name}: not shared {about}");
    }
    format!("refused to send {name}: {} {about}", problem.detail.trim_end_matches('.'))
}
