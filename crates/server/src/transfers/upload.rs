//! One upload of a transfer, from its header to its end.

mod active_upload;
mod block_list;

use filepull_core::extent::ExtentKinds;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Phase, Receiving, UploadStart};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::active::ViewSender;
use super::commit::CompleteUpload;
use super::disk::{reserve, run};
use super::outcome::{Outcome, broken, classify, reject};
use super::task::TransferTask;
use super::{Activity, Answer, Command, Reply, Upload, WaitingFor, refuse};
use crate::receive::{self, ReceivedPartial, UploadEnd, WriteEvent, sleep_until_some};
use crate::registry::SessionHandle;
use active_upload::ActiveUpload;
pub(crate) use block_list::BlockListPart;
use block_list::{BlockListSender, ListEvent};

impl TransferTask {
    /// Receives an upload, and returns how it ended.
    pub(crate) async fn receive(
        &mut self,
        session: &SessionHandle,
        upload: Upload,
    ) -> Result<(), Outcome> {
        let Upload { offset, source, stored, mut stream, block_list, replies, .. } = upload;
        let n_expected = source.size.saturating_sub(offset);
        let view = self.view.clone();
        let stored = bytes_to_store(session, source.size, stored);
        let admit = self.admit(offset, source, stored, session.extents, &replies);
        let admitted = stream.while_disk_works(n_expected, admit, || show_disk(&view)).await;
        let received = match admitted {
            Ok((receiving, partial)) => {
                let replies = replies.clone();
                let mut upload = ActiveUpload::new(stream, partial, receiving, replies, self);
                upload.block_list = BlockListSender::start(block_list, self.base.as_ref());
                self.receive_bytes(session, upload).await
            }
            Err(outcome) => Err(outcome),
        };
        if let Err(Outcome::Failed(problem) | Outcome::Deferred(problem)) = &received {
            refuse(&replies, problem.clone(), None);
        }
        received
    }

    /// Admits an upload into the existing partial, or into a new one.
    async fn admit(
        &mut self,
        offset: u64,
        source: Source,
        stored: u64,
        extents: ExtentKinds,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<(Receiving, ReceivedPartial), Outcome> {
        let attempt = self.transfer.attempt;
        let start = loop {
            let held = self.partial.as_ref().map(|partial| partial.receiver().received());
            match self.transfer.begin(attempt, offset, &source, held) {
                Ok(UploadStart::Restart) => {
                    self.count_change_between_attempts()?;
                    self.start_over().await?;
                }
                Ok(start) => break start,
                Err(error) => return Err(reject(error, replies)),
            }
        };
        self.check_size_and_space(source.size, stored).await?;
        let opened = source.clone();
        let (receiving, mut partial) = match (start, self.partial.take()) {
            (UploadStart::Resume(receiving), Some(partial)) => {
                (receiving, reserve(partial, stored).await?)
            }
            (UploadStart::Resume(_) | UploadStart::Create | UploadStart::Restart, _) => {
                self.begin_partial(source, stored).await?
            }
        };
        self.traffic.begin_upload();
        let base = self.base.as_ref().map(|base| base.file.clone());
        partial
            .begin_upload(opened.size, extents, base)
            .map_err(|error| Outcome::no_progress(error.to_string()))?;
        self.log_admitted(offset, &opened);
        Ok((receiving, partial))
    }

    /// Counts an attempt whose file no longer begins with the received bytes, even if the attempt
    /// receives bytes. Otherwise a file that keeps changing would never end.
    fn count_change_between_attempts(&mut self) -> Result<(), Problem> {
        if self.retry.source_changed() {
            return Ok(());
        }
        let client = &self.transfer.client;
        let n_changed = self.retry.setbacks().changed;
        let name = self.transfer.path.as_ref().map_or("its file".to_owned(), ToString::to_string);
        let detail = format!("{client} changed {name} {n_changed} times before it was sent.");
        Err(Problem::new(Code::FileChanged, detail))
    }

    fn log_admitted(&mut self, bytes_done: u64, source: &Source) {
        let Source { name, size, .. } = source;
        let attempt = self.transfer.attempt;
        if attempt == 1 {
            info!(event = "transfer.started", name, size, "transfer started");
        } else {
            info!(event = "transfer.resumed", name, size, bytes_done, attempt, "transfer resumed");
        }
        self.was_admitted = true;
        self.view.send_modify(|view| view.bytes_done = bytes_done);
        self.show(Activity::Running);
    }

    /// Checks that a source of `size` bytes is allowed, and that the `stored` bytes that its disk uses fit
    /// on this disk. The received bytes already have their space, also if a new partial replaces them.
    ///
    /// # Errors
    /// [`Outcome::Failed`] if the file is too large, [`Outcome::Deferred`] if it does not fit now.
    pub(crate) async fn check_size_and_space(
        &mut self,
        size: u64,
        stored: u64,
    ) -> Result<(), Outcome> {
        let max_file_size = self.context.limits.max_file_size;
        if max_file_size < size {
            let client = &self.transfer.client;
            let size = human::size(size);
            let max = human::size(max_file_size);
            let detail = format!("{client}'s file has {size}; this server accepts up to {max}.");
            return Err(Problem::new(Code::FileTooLarge, detail).into());
        }
        self.stored = Some(stored);
        let needed = stored.saturating_sub(self.allocated().await);
        self.context.check_space_for(needed).await.map_err(Outcome::Deferred)
    }

    /// Returns how many bytes of the disk the partial uses or reserves.
    pub(crate) async fn allocated(&self) -> u64 {
        let Some(partial) = &self.partial else { return 0 };
        let handle = partial.partial.clone();
        run(move || handle.allocated()).await
    }

    /// Receives the bytes of an upload, and keeps or completes the partial.
    async fn receive_bytes(
        &mut self,
        session: &SessionHandle,
        mut upload: ActiveUpload,
    ) -> Result<(), Outcome> {
        let before = upload.progress.received();
        let end = self.drive(session, &mut upload).await;
        let ActiveUpload { writer, receiving, replies, traffic, .. } = upload;
        self.traffic = traffic;
        let disk_stalled = writer.disk_stalled();
        let mut partial = writer.finish().await.map_err(|error| classify(&error))?;
        self.traffic.update(&partial);
        partial.close_base();
        let received = partial.receiver().received();
        let progress = before < received;
        match end {
            Ok(UploadEnd::Complete(trailer)) => {
                let upload = CompleteUpload { receiving, partial, replies };
                self.complete(upload, trailer).await
            }
            Ok(UploadEnd::Abort(problem)) => {
                self.partial = Some(partial);
                self.aborted(problem, progress).await
            }
            Ok(UploadEnd::Broken(reason)) => {
                self.partial = Some(partial);
                Err(broken(reason, progress, disk_stalled))
            }
            Ok(UploadEnd::Bad(error)) => {
                self.partial = Some(partial);
                let reason = error.to_string();
                refuse(&replies, Problem::new(Code::AgentError, &*reason), Some(received));
                Err(Outcome::Interrupted { reason, progress })
            }
            Ok(UploadEnd::Violation(reason)) => {
                self.partial = Some(partial);
                // An agent that has disconnected needs no response.
                let _ = replies.try_send(Reply::Violation { reason: reason.clone() });
                match self.base {
                    // The agent may break the rules only because of its base.
                    Some(_) => self.base_failed(reason).await,
                    None => Err(Outcome::Interrupted { reason, progress }),
                }
            }
            Ok(UploadEnd::BaseChanged(reason)) => {
                self.partial = Some(partial);
                refuse(&replies, Problem::new(Code::AgentError, &*reason), None);
                self.base_failed(reason).await
            }
            // The partial must not be used any more: only its checkpoint is valid.
            Ok(UploadEnd::Disk(error)) => Err(classify(&error)),
            Err(Outcome::Deferred(problem)) => Err(Outcome::Deferred(problem)),
            Err(Outcome::Stopped) => {
                // The process stops. Bytes that are not durable will be sent again.
                let _ = self.checkpoint(receiving, &partial).await;
                Err(Outcome::Stopped)
            }
            Err(outcome) => {
                self.partial = Some(partial);
                Err(outcome)
            }
        }
    }

    /// Receives the bytes of an upload until it ends, or until the server ends it.
    async fn drive(
        &mut self,
        session: &SessionHandle,
        upload: &mut ActiveUpload,
    ) -> Result<UploadEnd, Outcome> {
        let end = self.drive_until_end(session, upload).await;
        self.settle_checkpoint(upload).await?;
        end
    }

    async fn drive_until_end(
        &mut self,
        session: &SessionHandle,
        upload: &mut ActiveUpload,
    ) -> Result<UploadEnd, Outcome> {
        let abandoned = self.abandoned(session);
        tokio::pin!(abandoned);
        let stop = self.context.lifecycle.stop().clone();
        loop {
            let batch_len = receive::batch_len(self.context.n_running());
            let end = tokio::select! {
                event = upload.writer.next(batch_len) => self.handle_write(upload, event),
                recorded = upload.checkpoints.finished() => {
                    self.checkpoint_done(upload, recorded?);
                    None
                }
                event = upload.block_list.next() => {
                    self.handle_list(upload, event);
                    None
                }
                Some(command) = self.commands.recv() => {
                    self.handle_during_upload(session, upload, command).await?
                }
                reason = &mut abandoned => Some(UploadEnd::Broken(reason.into())),
                () = sleep_until_some(upload.min_rate.next_check()) => {
                    let ends = upload.is_too_slow()
                        && self.context.active.others_wait(&self.transfer.client);
                    ends.then(|| upload.end_slow())
                }
                () = sleep_until(upload.progress.deadline()) => upload.check_stall(),
                () = stop.cancelled() => return Err(Outcome::Stopped),
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Until the agent has the list, it waits for this server.
    fn handle_list(&mut self, upload: &mut ActiveUpload, event: ListEvent) {
        upload.progress.renew(Instant::now());
        if let ListEvent::Failed(reason) = event {
            upload.traffic.base_failed();
            if let Some(base) = &self.base {
                self.context.report_base(base, &reason);
            }
        }
    }

    /// Returns the end of the upload, if this event ends it.
    fn handle_write(&mut self, upload: &mut ActiveUpload, event: WriteEvent) -> Option<UploadEnd> {
        match event {
            WriteEvent::Wrote => {
                if matches!(self.view.borrow().activity, Activity::Waiting(_)) {
                    self.show(Activity::Running);
                }
                upload.on_progress(&self.context, &self.transfer, &self.view);
                None
            }
            WriteEvent::DiskStalled => {
                show_disk(&self.view);
                None
            }
            WriteEvent::Ended(end) => Some(end),
        }
    }

    /// Handles a command during an upload. Returns the end of the upload, if the command ends it.
    async fn handle_during_upload(
        &mut self,
        session: &SessionHandle,
        upload: &mut ActiveUpload,
        command: Command,
    ) -> Result<Option<UploadEnd>, Outcome> {
        match command {
            Command::Cancel(problem) => return Err(self.cancel_upload(session, problem)),
            Command::Answer { attempt, answer: Answer::TryAgain(reason) }
                if attempt == self.transfer.attempt =>
            {
                return Ok(Some(UploadEnd::Broken(reason)));
            }
            // A running checkpoint would record the old deadline again.
            Command::Extend { .. } => self.settle_checkpoint(upload).await?,
            Command::Upload(_) | Command::Answer { .. } => {}
        }
        self.handle_between_attempts(command).await?;
        Ok(None)
    }

    /// Waits for the running checkpoint, if there is one.
    async fn settle_checkpoint(&mut self, upload: &mut ActiveUpload) -> Result<(), Outcome> {
        let recorded = upload.checkpoints.settle().await?;
        self.checkpoint_done(upload, recorded);
        Ok(())
    }

    /// Continues with a phase that a checkpoint has recorded.
    fn checkpoint_done(&mut self, upload: &mut ActiveUpload, recorded: Option<Receiving>) {
        if let Some(receiving) = recorded {
            upload.receiving = receiving.clone();
            upload.durable = receiving.checkpoint().len;
            self.transfer.phase = Phase::Receiving(receiving);
        }
    }
}

/// Returns how many bytes of the disk a file may use. An agent that sends no holes fills them.
pub(crate) fn bytes_to_store(session: &SessionHandle, size: u64, stored: u64) -> u64 {
    if session.extents.hole { stored.min(size) } else { size }
}

/// Shows that the transfer waits for a disk that does not respond. A wait for the records keeps its
/// reason.
fn show_disk(view: &ViewSender) {
    let waits = view.borrow().activity == Activity::Waiting(WaitingFor::Disk);
    if !waits {
        view.send_modify(|view| view.wait_for_disk("The server's disk does not answer."));
    }
}
