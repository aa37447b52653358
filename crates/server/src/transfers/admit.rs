//! Whether an upload may begin, and into which partial.

use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Begin, BeginError, Transfer};
use tokio::sync::mpsc;
use tracing::info;

use super::effects::run;
use super::life::{Ending, Life};
use super::view::Stage;
use super::{Reply, refuse, store_failed};

/// Whether an upload may begin.
pub(super) enum Admitted {
    Yes,
    No(String),
}

impl Life {
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
            match self.transfer.begin(attempt, offset, source.clone(), held) {
                Ok(Begin::Over(effects)) => self.drop_received(&effects).await?,
                Ok(Begin::GoOn) => {
                    self.fits(size)?;
                    self.reserve(size).await?;
                    break;
                }
                Ok(Begin::Anew(effects)) => {
                    self.fits(size)?;
                    self.perform(&effects).await?;
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

    /// Reserves what an earlier process gave back when it cut the partial to its checkpoint.
    async fn reserve(&mut self, size: u64) -> Result<(), Ending> {
        let Some(held) = self.held.take() else { return Ok(()) };
        let job = move || {
            let reserved = held.partial.reserve(size);
            (held, reserved)
        };
        let (held, reserved) = run(job).await;
        self.held = Some(held);
        reserved.map_err(|error| self.meaning(store_failed(&error)))
    }

    fn began(&self, offset: u64) {
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
        self.view.send_modify(|view| view.bytes_done = offset);
        self.show(Stage::Running);
    }

    /// Is there room for a source of `size` bytes? What is received already has its room, whether
    /// the upload goes on after it or takes its place.
    pub(super) fn fits(&self, size: u64) -> Result<(), Problem> {
        let limits = &self.shared.limits;
        let client = &self.transfer.client;
        if limits.max_file_size < size {
            let (size, max) = (human::size(size), human::size(limits.max_file_size));
            let detail = format!("{client}'s file has {size}; this server accepts up to {max}.");
            return Err(Problem::new(Code::FileTooLarge, detail));
        }
        let Ok(free) = self.shared.store.free() else { return Ok(()) };
        let owned = self.held.as_ref().map_or(0, |held| held.partial.allocated());
        let needed = size.saturating_sub(owned);
        if free < needed.saturating_add(limits.min_free) {
            let (free, min_free) = (human::size(free), human::size(limits.min_free));
            let needed = human::size(needed);
            let detail = format!(
                "The server has {free} free; the file needs {needed}, and {min_free} must stay free."
            );
            return Err(Problem::new(Code::ServerFull, detail));
        }
        Ok(())
    }
}
