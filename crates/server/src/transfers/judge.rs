//! What an upload that has ended came to.

use filepull_core::digest::Digest;
use filepull_core::name::DownloadName;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Verified;
use filepull_core::transfer::{Phase, Transfer};
use tokio::sync::mpsc;

use super::attempt::fruitless;
use super::task::{Attempted, Ending, TransferTask};
use super::{Reply, now, refuse};
use crate::receive::ReceivedPartial;

impl TransferTask {
    /// The agent has sent everything: is it what it read?
    pub(super) async fn complete(
        &mut self,
        total_size: u64,
        digest: Digest,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        match self.held.as_ref().map(|held| held.receiver.finish(total_size, digest)) {
            Some(Ok(proof)) => self.seal(proof, replies).await,
            Some(Err(error)) => self.damaged(error.to_string(), replies).await,
            None => Ok(fruitless("the partial is gone")),
        }
    }

    async fn seal(
        &mut self,
        proof: Verified,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        let source_name = self.transfer.source().map_or("", |source| source.name.as_str());
        let name = DownloadName::new(now(), source_name);
        let Some((inode, synced)) = self.with_held(ReceivedPartial::sync_intact).await?.flatten()
        else {
            let why = "the partial is no longer what was received".to_owned();
            return self.damaged(why, replies).await;
        };
        let sealed = self.transfer.receiving()?.seal(proof, name, inode, synced);
        self.transfer.phase = Phase::Sealed(sealed);
        self.record_sealed().await?;
        if !self.name_at_once().await? {
            // The agent is done: it does not wait for this server's disk.
            let detail = "The file has arrived; the server's disk has not taken its name yet.";
            refuse(replies, Problem::new(Code::StorageFailed, detail), None);
            return Ok(Attempted::Sealed);
        }
        if let Some(download) = self.transfer.download() {
            let name = download.name.to_string();
            // The agent may have hung up: the file is published all the same.
            let _ = replies.try_send(Reply::Stored { name, proof });
        }
        Ok(Attempted::Done)
    }

    /// The agent has sent everything, and that is not what is here.
    async fn damaged(
        &mut self,
        why: String,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Attempted, Ending> {
        let problem =
            Problem::new(Code::ChecksumMismatch, format!("The bytes were damaged: {why}."));
        self.transfer.setbacks.damaged += 1;
        if Transfer::MAX_DAMAGED <= self.transfer.setbacks.damaged {
            return Err(problem.into());
        }
        refuse(replies, problem, None);
        self.start_over().await?;
        Ok(Attempted::Interrupted { why, progress: true })
    }

    /// The agent could not send the file as it is.
    pub(super) async fn aborted(
        &mut self,
        problem: Problem,
        progress: bool,
    ) -> Result<Attempted, Ending> {
        let why = problem.detail.clone();
        if problem.code == Code::Cancelled {
            // The agent stops: what came stays.
            return Ok(Attempted::Interrupted { why, progress });
        }
        if problem.code == Code::FileChanged {
            self.transfer.setbacks.changed += 1;
            if self.transfer.setbacks.changed < Transfer::MAX_CHANGED {
                self.start_over().await?;
                return Ok(Attempted::Interrupted { why, progress: true });
            }
        }
        Err(problem.into())
    }
}
