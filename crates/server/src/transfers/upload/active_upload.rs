//! An admitted upload: its partial, its timers and its responses. No access to the task.

use std::sync::Arc;

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Phase, Receiving, Transfer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::block_list::BlockListSender;
use crate::receive::{BatchWriter, ReceivedPartial, UploadEnd, UploadStream};
use crate::transfers::active::ViewSender;
use crate::transfers::checkpoint::Checkpoints;
use crate::transfers::min_rate::MinRate;
use crate::transfers::progress::Progress;
use crate::transfers::task::TransferTask;
use crate::transfers::traffic::Traffic;
use crate::transfers::{Limits, Reply, TaskContext, refuse};

/// An upload that may write. It owns its partial.
pub(crate) struct ActiveUpload {
    pub(crate) writer: BatchWriter,
    /// The phase on record, with the source of this upload.
    pub(crate) receiving: Receiving,
    pub(crate) replies: mpsc::Sender<Reply>,
    pub(crate) progress: Progress,
    pub(crate) min_rate: MinRate,
    pub(crate) checkpoints: Checkpoints,
    /// How many received bytes survive a power cut.
    pub(crate) durable: u64,
    pub(crate) traffic: Traffic,
    pub(crate) block_list: BlockListSender,
    limits: Limits,
}

impl ActiveUpload {
    pub(crate) fn new(
        stream: UploadStream,
        partial: ReceivedPartial,
        receiving: Receiving,
        replies: mpsc::Sender<Reply>,
        task: &TransferTask,
    ) -> Self {
        let limits = task.context.limits;
        let now = Instant::now();
        let Limits { min_rate, min_rate_window, stall_timeout, checkpoint_every, .. } = limits;
        let receiver = partial.receiver();
        Self {
            progress: Progress::new(receiver, stall_timeout, now),
            min_rate: MinRate::new(min_rate, min_rate_window, receiver.received(), now),
            checkpoints: Checkpoints::new(checkpoint_every),
            durable: 0,
            traffic: task.traffic,
            block_list: BlockListSender::start(None, None),
            writer: BatchWriter::new(stream, partial),
            receiving,
            replies,
            limits,
        }
    }

    /// Shows and acknowledges the bytes that were written, and starts a checkpoint if one is due.
    pub(crate) fn on_progress(
        &mut self,
        context: &Arc<TaskContext>,
        transfer: &Transfer,
        view: &ViewSender,
    ) {
        let Some(partial) = self.writer.partial() else { return };
        let update = self.progress.on_write(partial.receiver(), Instant::now());
        let received = update.received;
        self.traffic.update(partial);
        let traffic = self.traffic;
        let receiving = &self.receiving;
        if update.is_shown {
            view.send_modify(|view| {
                view.bytes_done = received;
                view.bytes_sent = traffic.sent();
                view.bytes_per_second = update.bytes_per_second.or(view.bytes_per_second);
            });
        }
        if update.ack_due {
            // If the queue is full, the agent has not read the last ack yet.
            let _ = self.replies.try_send(Reply::Ack { received, durable: self.durable });
        }
        let current = || {
            let phase = Phase::Receiving(receiving.clone());
            traffic.of(Transfer { phase, ..transfer.clone() })
        };
        self.checkpoints.start_if_due(context, partial, current);
    }

    /// The stall timer has run out. Returns the end of the upload, unless the agent waits for this
    /// server.
    pub(crate) fn check_stall(&mut self) -> Option<UploadEnd> {
        if self.writer.is_writing() || self.block_list.is_reading() {
            self.progress.renew(Instant::now());
            return None;
        }
        let limit = human::span(self.limits.stall_timeout);
        Some(UploadEnd::Broken(format!("no byte came for {limit}")))
    }

    /// Returns whether the upload is too slow. Time does not count while the agent waits for this
    /// server, or reads its file again.
    pub(crate) fn is_too_slow(&mut self) -> bool {
        let received = self.progress.received();
        let now = Instant::now();
        let waits_for_server = self.writer.is_writing() || self.block_list.is_active();
        if waits_for_server || self.progress.is_complete() {
            self.min_rate.restart(received, now);
            return false;
        }
        self.min_rate.is_missed(received, now)
    }

    /// Ends a slow upload in favour of others, and sends the reason to the agent. The received bytes
    /// stay.
    pub(crate) fn end_slow(&self) -> UploadEnd {
        let Limits { min_rate, min_rate_window, .. } = self.limits;
        let rate = human::rate(min_rate);
        let window = human::span(min_rate_window);
        let reason = format!("slower than {rate} for {window} while others wait");
        let detail = format!("The upload was {reason}; it continues when it is its turn again.");
        let problem = Problem::new(Code::ServerBusy, detail);
        refuse(&self.replies, problem, Some(self.progress.received()));
        UploadEnd::Broken(reason)
    }
}
