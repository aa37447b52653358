//! Whether an upload may begin, and into which partial.

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{BeginError, Phase, Transfer, UploadStart};
use tokio::sync::mpsc;
use tracing::info;

use super::disk::run;
use super::task::{Ending, TransferTask};
use super::view::Activity;
use super::{Reply, refuse, store_failed};

/// Whether an upload may begin.
pub(super) enum Admitted {
    Yes,
    No(String),
}

impl TransferTask {
    /// Lets the upload begin: into the partial that is there, or into a new one.
    pub(super) async fn admit(
        &mut self,
        offset: u64,
        source: Source,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<Admitted, Ending> {
        let (attempt, size) = (self.transfer.attempt, source.size);
        loop {
            let held = self.held.as_ref().map(|held| held.receiver.received());
            match self.transfer.begin(attempt, offset, &source, held) {
                Ok(UploadStart::Restart) => {
                    self.changed_between_attempts()?;
                    self.start_over().await?;
                }
                Ok(UploadStart::Resume(receiving)) => {
                    self.transfer.phase = Phase::Receiving(receiving);
                    self.fits(size).await?;
                    self.reserve(size).await?;
                    break;
                }
                Ok(UploadStart::Create) => {
                    self.fits(size).await?;
                    self.begin_partial(source).await?;
                    break;
                }
                Err(error) => {
                    let expected = match error {
                        BeginError::WrongOffset { expected, .. } => Some(expected),
                        BeginError::StaleAttempt { .. } => None,
                    };
                    let why = error.to_string();
                    refuse(replies, Problem::new(Code::TransferUnknown, &*why), expected);
                    return Ok(Admitted::No(why));
                }
            }
        }
        if let Some(held) = &mut self.held
            && let Err(error) = held.receiver.expect(size)
        {
            return Ok(Admitted::No(error.to_string()));
        }
        self.began(offset);
        Ok(Admitted::Yes)
    }

    /// Counts an attempt whose file no longer begins with the received bytes, even if the attempt
    /// receives bytes: a file that keeps changing would never end otherwise.
    fn changed_between_attempts(&mut self) -> Result<(), Problem> {
        self.transfer.setbacks.changed += 1;
        if self.transfer.setbacks.changed < Transfer::MAX_CHANGED {
            return Ok(());
        }
        let (client, n_changed) = (&self.transfer.client, self.transfer.setbacks.changed);
        let name = self.transfer.path.as_ref().map_or("its file".to_owned(), ToString::to_string);
        let detail = format!("{client} changed {name} {n_changed} times before it was sent.");
        Err(Problem::new(Code::FileChanged, detail))
    }

    /// Reserves what an earlier process gave back when it cut the partial to its checkpoint.
    async fn reserve(&mut self, size: u64) -> Result<(), Ending> {
        let Some(held) = self.held.take() else { return Ok(()) };
        let job = move || {
            let reserved = held.partial.reserve(size);
            (held, reserved)
        };
        let (held, reserved) = run(job).await;
        self.held = Some(held);
        reserved.map_err(|error| self.classify(store_failed(&error)))
    }

    fn began(&mut self, offset: u64) {
        let Transfer { id, client, attempt, .. } = &self.transfer;
        let Some(source) = self.transfer.source() else { return };
        let (name, size) = (source.name.as_str(), source.size);
        if *attempt == 1 {
            info!(event = "transfer.started", transfer = %id, %client, name, size, "transfer started");
        } else {
            info!(
                event = "transfer.resumed", transfer = %id, %client, name, size,
                bytes_done = offset, attempt, "transfer resumed"
            );
        }
        self.was_admitted = true;
        self.view.send_modify(|view| view.bytes_done = offset);
        self.show(Activity::Running);
    }

    /// Is there space for a source of `size` bytes? What is received already has its space, whether
    /// the upload goes on after it or takes its place.
    ///
    /// # Errors
    /// A file that is too large ends the transfer; one for which there is no space may wait.
    pub(super) async fn fits(&mut self, size: u64) -> Result<(), Ending> {
        let max_file_size = self.shared.limits.max_file_size;
        if max_file_size < size {
            let client = &self.transfer.client;
            let (size, max) = (human::size(size), human::size(max_file_size));
            let detail = format!("{client}'s file has {size}; this server accepts up to {max}.");
            return Err(Problem::new(Code::FileTooLarge, detail).into());
        }
        let owned = self.allocated().await;
        let checked = self.shared.check_space_for(size.saturating_sub(owned)).await;
        checked.map_err(Ending::NotNow)
    }

    /// How many bytes of the disk the partial has taken or reserved.
    pub(super) async fn allocated(&mut self) -> u64 {
        let Some(held) = self.held.take() else { return 0 };
        let job = move || {
            let allocated = held.partial.allocated();
            (held, allocated)
        };
        let (held, allocated) = run(job).await;
        self.held = Some(held);
        allocated
    }
}
