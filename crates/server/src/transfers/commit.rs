//! From the trailer of an upload to the published download: verifies, seals and publishes.

use filepull_core::base_offer::BaseUse;
use filepull_core::disk::{self, CommitResult, Disk as _, DiskError, Extent, SealedLocation};
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Verified;
use filepull_core::transfer::{Phase, Published, Receiving, Recovery, Sealed};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::error;

use super::disk::run;
use super::outcome::{Outcome, classify, log_done, store_failed};
use super::retry::{next_pause, retry_backoff};
use super::task::TransferTask;
use super::view::{Activity, WaitingFor};
use super::{Reply, now, refuse};
use crate::receive::{ReceivedPartial, ReceivedTrailer};
use crate::store::{Partial, StoreError};

/// An upload whose trailer has arrived.
pub(crate) struct CompleteUpload {
    pub(crate) receiving: Receiving,
    pub(crate) partial: ReceivedPartial,
    pub(crate) replies: mpsc::Sender<Reply>,
}

impl TransferTask {
    /// Compares the received bytes with the trailer and its receipt, and seals and publishes them.
    pub(crate) async fn complete(
        &mut self,
        upload: CompleteUpload,
        trailer: ReceivedTrailer,
    ) -> Result<(), Outcome> {
        let ReceivedTrailer { total_size, blake3, receipt } = trailer;
        let proof = match upload.partial.verify(total_size, blake3) {
            Ok(proof) => proof,
            Err(error) => return self.damaged(upload, error.to_string()).await,
        };
        let checked = receipt.and_then(|receipt| {
            receipt.as_ref().map_or(Ok(()), |receipt| receipt.check(&self.transfer, proof))?;
            Ok(receipt)
        });
        match checked {
            Ok(receipt) => {
                self.receipt = receipt.map(|receipt| receipt.text);
                self.seal_and_publish(upload, proof).await
            }
            Err(reason) => self.wrong_receipt(upload, reason),
        }
    }

    /// The receipt is not about these bytes, or another key signed it. The bytes stay for another
    /// attempt.
    fn wrong_receipt(&mut self, upload: CompleteUpload, reason: String) -> Result<(), Outcome> {
        let CompleteUpload { partial, replies, .. } = upload;
        self.partial = Some(partial);
        // An agent that has disconnected needs no response.
        let _ = replies.try_send(Reply::Violation { reason: reason.clone() });
        if self.retry.damaged() {
            return Err(Outcome::Interrupted { reason, progress: true });
        }
        let detail = format!("The file arrived without a valid receipt: {reason}.");
        Err(Problem::new(Code::AgentError, detail).into())
    }

    async fn seal_and_publish(
        &mut self,
        upload: CompleteUpload,
        proof: Verified,
    ) -> Result<(), Outcome> {
        let CompleteUpload { receiving, partial, replies } = upload;
        let name = DownloadName::new(now(), &receiving.source().name);
        let (partial, synced) = sync_intact(partial).await;
        let synced = synced.map_err(|error| classify(&error.into_cause()))?;
        let Some((inode, synced)) = synced else {
            let upload = CompleteUpload { receiving, partial, replies };
            let reason = "the partial is no longer what was received".to_owned();
            return self.damaged(upload, reason).await;
        };
        let handle = partial.partial.clone();
        // The end of the transfer removes the partial, until the record is sealed.
        self.partial = Some(partial);
        let sealed = self.record_sealed(receiving.seal(proof, name, inode, synced)).await?;
        self.partial = None;
        match self.name_partial(sealed, handle).await {
            Ok(published) => {
                let name = published.download().name.to_string();
                self.finish_publish(published).await?;
                // The agent may have disconnected: the file is published all the same.
                let _ = replies.try_send(Reply::Stored { name, proof });
                Ok(())
            }
            Err(Outcome::Deferred(problem) | Outcome::Unknown(problem)) => {
                // The agent is done: it does not wait for this server's disk.
                let detail = "The file has arrived; the server's disk has not taken its name yet.";
                refuse(&replies, Problem::new(Code::StorageFailed, detail), None);
                Err(Outcome::Unknown(problem))
            }
            Err(outcome) => Err(outcome),
        }
    }

    /// The received bytes are not the bytes that the agent read.
    async fn damaged(&mut self, upload: CompleteUpload, reason: String) -> Result<(), Outcome> {
        let CompleteUpload { partial, replies, .. } = upload;
        self.partial = Some(partial);
        let problem =
            Problem::new(Code::ChecksumMismatch, format!("The bytes were damaged: {reason}."));
        if self.traffic.base_use() == BaseUse::Copied {
            refuse(&replies, problem, None);
            return self.base_failed(reason).await;
        }
        if !self.retry.damaged() {
            return Err(problem.into());
        }
        refuse(&replies, problem, None);
        self.start_over().await?;
        Err(Outcome::Interrupted { reason, progress: true })
    }

    /// The agent could not send the file.
    pub(crate) async fn aborted(
        &mut self,
        problem: Problem,
        progress: bool,
    ) -> Result<(), Outcome> {
        let reason = problem.detail.clone();
        if problem.code == Code::Cancelled {
            // The agent stops. The received bytes stay.
            return Err(Outcome::Interrupted { reason, progress });
        }
        if problem.code == Code::FileChanged && self.retry.source_changed() {
            self.start_over().await?;
            return Err(Outcome::Interrupted { reason, progress: true });
        }
        Err(problem.into())
    }

    /// Records the sealed phase, under the first name that is not on record for another download of
    /// the client. Returns the phase with that name.
    async fn record_sealed(&mut self, sealed: Sealed) -> Result<Sealed, Outcome> {
        let taken = self.names_on_record(&sealed.download().name).await?;
        let sealed = sealed.skip_names(&taken);
        let mut next = self.start_change();
        next.phase = Phase::Sealed(sealed.clone());
        self.finish_change(next).await?;
        Ok(sealed)
    }

    /// Publishes the partial under the first name that is free.
    ///
    /// # Errors
    /// [`Outcome::Deferred`] if the disk has certainly not named the file, [`Outcome::Unknown`] if
    /// the name may exist.
    async fn name_partial(
        &mut self,
        mut sealed: Sealed,
        partial: Partial,
    ) -> Result<Published, Outcome> {
        loop {
            let handle = partial.clone();
            let name = sealed.download().name.clone();
            self.may_be_named = true;
            let committed = self.on_disk(move |store| store.commit(&handle, &name)).await;
            match committed.map_err(name_failed)? {
                CommitResult::Named(named) => return Ok(sealed.published(named)),
                CommitResult::Taken => {
                    sealed = self.record_sealed(sealed.name_taken()).await?;
                }
            }
            self.end_if_cancelled()?;
        }
    }

    /// Publishes the sealed file. First searches the disk, as after a restart, and holds no permit.
    /// While the disk rejects the name or fails, the transfer keeps its bytes and waits. A cancel or
    /// the deadline ends the wait only if the disk has certainly not named the file.
    ///
    /// If the file is lost, the transfer starts over. Otherwise it is final afterwards.
    pub(crate) async fn publish(&mut self) -> Result<(), Outcome> {
        let since = now();
        let mut backoff = retry_backoff();
        let mut wait = None;
        loop {
            self.may_be_named = true;
            let problem = match self.publish_found().await {
                Ok(Some(published)) => return self.finish_publish(published).await,
                Ok(None) => {
                    self.may_be_named = false;
                    self.end_if_cancelled()?;
                    return self.start_over().await;
                }
                Err(Outcome::Deferred(problem)) => {
                    self.may_be_named = false;
                    self.end_if_cancelled()?;
                    if self.client_deadline(since) <= now() {
                        let reason = problem.detail;
                        let detail = format!("The file arrived and has no name: {reason}");
                        return Err(Problem::new(Code::StorageFailed, detail).into());
                    }
                    problem
                }
                Err(Outcome::Unknown(problem)) => problem,
                Err(outcome) => return Err(outcome),
            };
            if wait.is_none() {
                wait = Some(self.context.resource_waits.begin(&problem));
                let reason = &problem.detail;
                error!(
                    event = "transfer.publish_delayed",
                    reason, "the disk has not named the download yet; retrying"
                );
            }
            let deadline = (!self.may_be_named).then(|| self.client_deadline(since));
            self.show_until(Activity::Waiting(WaitingFor::Disk), deadline, Some(problem.detail));
            let pause = next_pause(&mut backoff, fastrand::f64());
            self.or_cancelled(sleep(pause)).await?;
        }
    }

    /// Searches for the sealed file and names it, without the agent. Returns none if the file is
    /// lost. Opens new file descriptors, because the system reports a lost write only once.
    async fn publish_found(&mut self) -> Result<Option<Published>, Outcome> {
        let Recovery::FindSealed(sealed) = self.transfer.recovery() else { return Ok(None) };
        let key = self.transfer.partial();
        let download = sealed.download().clone();
        let found = self.on_disk(move |store| {
            let found = disk::find_sealed(store, &key, &download)?;
            if let SealedLocation::Unnamed(resumed) = &found {
                let _synced = store.sync(&resumed.partial, Extent::Whole)?;
            }
            Ok(found)
        });
        match found.await.map_err(name_failed)? {
            SealedLocation::Named(named) => Ok(Some(sealed.published(named))),
            SealedLocation::Unnamed(resumed) => {
                self.may_be_named = false;
                while let Ok(command) = self.commands.try_recv() {
                    self.handle_between_attempts(command).await?;
                }
                self.end_if_cancelled()?;
                self.name_partial(sealed, resumed.partial).await.map(Some)
            }
            SealedLocation::Lost => Ok(None),
        }
    }

    /// Records that the download has its name.
    async fn finish_publish(&mut self, published: Published) -> Result<(), Outcome> {
        let size = published.download().size;
        let mut next = self.start_change();
        next.publish(published, now())?;
        self.finish_change(next).await?;
        log_done(&self.transfer);
        self.view.send_modify(|view| {
            view.transfer = self.transfer.clone();
            view.bytes_done = size;
            view.bytes_sent = self.traffic.sent();
            view.bytes_per_second = None;
        });
        Ok(())
    }
}

/// Makes a complete partial durable, and returns its inode; none if it is damaged.
async fn sync_intact(
    partial: ReceivedPartial,
) -> (ReceivedPartial, Result<Option<(u64, disk::Durable)>, DiskError<StoreError>>) {
    run(move || {
        let mut partial = partial;
        let synced = partial.sync_intact();
        (partial, synced)
    })
    .await
}

/// Returns whether the disk has certainly not named the file, or may have named it.
fn name_failed(error: DiskError<StoreError>) -> Outcome {
    match error {
        DiskError::NotDone(cause) => Outcome::Deferred(store_failed(&cause)),
        DiskError::Unknown(cause) => Outcome::Unknown(store_failed(&cause)),
    }
}
