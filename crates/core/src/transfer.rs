//! The life cycle of a transfer: what is on record, and which changes are allowed next.
//!
//! A method that relies on the disk takes [`Durable`] as proof, so that the [disk](crate::disk) is
//! always ahead of the record. Each change is recorded before the next step that depends on it. After
//! a crash between two steps, [`Transfer::recovery`] returns what to do. `tests/transfer_model` checks
//! this with random crashes.

mod begin;
mod phase;
mod phase_name;

use chrono::{DateTime, Utc};

use crate::base_offer::BaseUse;
use crate::disk::{Durable, PartialKey};
pub use crate::download::Download;
use crate::id::{ClientId, TransferId};
use crate::name::DownloadName;
use crate::path::SharedPath;
use crate::problem::{Code, Problem};
use crate::pull_mode::PullMode;
use crate::receive::Prefix;
use crate::source::Source;
pub use begin::{BeginError, UploadStart};
pub use phase::{Failure, LastProgress, Phase, Published, Receiving, Sealed, UnchangedFile};
pub use phase_name::PhaseName;

/// The transfer of one file, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Identifies the transfer in every order and upload.
    pub id: TransferId,
    /// The client that has the file.
    pub client: ClientId,
    /// The path of the file; none is the client's default file.
    pub path: Option<SharedPath>,
    /// How much of the file it sends.
    pub mode: PullMode,
    /// The caller that requested the file, for the record.
    pub requested_by: String,
    /// When the transfer was requested.
    pub created_at: DateTime<Utc>,
    /// When the client must have connected, if the trigger has `queue`.
    pub queue_until: Option<DateTime<Utc>>,
    /// When the first order was sent.
    pub started_at: Option<DateTime<Utc>>,
    /// When the transfer became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// Counts the orders sent. Only the newest attempt may upload.
    pub attempt: u32,
    /// The epoch of the session that got the newest order; 0 before the first order.
    pub epoch: u64,
    /// Counts the partials created. Bytes of two generations never share a file.
    pub generation: u32,
    /// Counts failures that did not end the transfer.
    pub setbacks: Setbacks,
    /// How many bytes of content the client has sent in all attempts, compressed if it compressed
    /// them. Holes and copies from the base cost none.
    pub sent: u64,
    /// How it has used the last good download of the file.
    pub base_use: BaseUse,
    /// The current phase.
    pub phase: Phase,
}

/// Failures that did not end the transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setbacks {
    /// How often the source changed while it was read.
    pub changed: u32,
    /// How often the received bytes differed from the bytes that the agent read.
    pub damaged: u32,
    /// Consecutive attempts without progress while the session was up.
    pub stalled: u32,
}

/// A change that the current phase of a transfer does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {change} a transfer that is {phase}")]
pub struct PhaseError {
    phase: &'static str,
    change: &'static str,
}

/// What must be checked on the disk before a transfer can continue after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing to check.
    Nothing,
    /// [Resume](crate::disk::resume) the partial from this checkpoint. If the partial does not hold
    /// these bytes, call [`Transfer::start_over`].
    ReadPrefix(Prefix),
    /// [Search](crate::disk::find_sealed) for the download. If it is nowhere, call
    /// [`Transfer::start_over`]; otherwise continue as after [`Receiving::seal`].
    FindSealed(Sealed),
}

impl Transfer {
    /// How often a source may change under the reader before the transfer fails.
    pub const MAX_CHANGED: u32 = 3;
    /// How often an upload may arrive damaged before the transfer fails.
    pub const MAX_DAMAGED: u32 = 2;
    /// How many consecutive attempts may receive nothing, while the session is up, before the
    /// transfer fails. A minimum duration applies too: five attempts may take only five seconds.
    pub const MAX_STALLED: u32 = 5;

    /// How many consecutive attempts may end with their session before the transfer fails. The same
    /// minimum duration applies. An agent that crashes on each order reconnects forever.
    pub const MAX_LOST: u32 = 50;

    /// Creates a transfer that was requested at `now`. Put it on record before any caller learns of
    /// it.
    pub fn new(
        client: ClientId,
        path: Option<SharedPath>,
        requested_by: String,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id: TransferId::generate(),
            client,
            path,
            mode: PullMode::Changes,
            requested_by,
            created_at: now,
            queue_until: None,
            started_at: None,
            finished_at: None,
            attempt: 0,
            epoch: 0,
            generation: 0,
            setbacks: Setbacks::default(),
            sent: 0,
            base_use: BaseUse::Unused,
            phase: Phase::Queued,
        }
    }

    /// Returns whether the transfer is done, unchanged, failed or cancelled. A final transfer never changes.
    pub fn is_final(&self) -> bool {
        match self.phase {
            Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_) => false,
            Phase::Done(_) | Phase::Unchanged(_) | Phase::Failed(_) | Phase::Cancelled(_) => true,
        }
    }

    /// Returns the problem of a failed or cancelled transfer.
    pub fn problem(&self) -> Option<&Problem> {
        self.phase.failure().map(|failure| &failure.problem)
    }

    /// Returns the download of a transfer that is done.
    pub fn download(&self) -> Option<&Download> {
        match &self.phase {
            Phase::Done(published) => Some(published.download()),
            Phase::Queued
            | Phase::Receiving(_)
            | Phase::Sealed(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => None,
        }
    }

    /// Returns the source, if the client has opened it.
    pub fn source(&self) -> Option<&Source> {
        match &self.phase {
            Phase::Receiving(receiving) => Some(receiving.source()),
            Phase::Sealed(sealed) => Some(&sealed.download().source),
            Phase::Done(published) => Some(&published.download().source),
            Phase::Unchanged(unchanged) => Some(&unchanged.source),
            Phase::Failed(failure) | Phase::Cancelled(failure) => failure.reached.source.as_ref(),
            Phase::Queued => None,
        }
    }

    /// Returns how many received bytes are on record.
    pub fn received(&self) -> u64 {
        self.phase.failure().map_or_else(|| self.durable(), |failure| failure.reached.received)
    }

    /// Returns how many received bytes survive a power cut.
    pub fn durable(&self) -> u64 {
        match &self.phase {
            Phase::Receiving(receiving) => receiving.checkpoint().len,
            Phase::Sealed(sealed) => sealed.download().size,
            Phase::Done(published) => published.download().size,
            Phase::Queued | Phase::Unchanged(_) | Phase::Failed(_) | Phase::Cancelled(_) => 0,
        }
    }

    /// Returns the phase of a transfer that receives bytes.
    ///
    /// # Errors
    /// The transfer is in another phase.
    pub fn receiving(&self) -> Result<Receiving, PhaseError> {
        match &self.phase {
            Phase::Receiving(receiving) => Ok(receiving.clone()),
            Phase::Queued
            | Phase::Sealed(_)
            | Phase::Done(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => Err(self.phase_error("seal")),
        }
    }

    /// Counts a new order to the client, whose upload supersedes all earlier ones.
    ///
    /// The server records each attempt before it sends the order, except the first: it saves one
    /// write, but a server that is killed right after it may use the number 1 twice. Therefore each
    /// order also has a random token, and an upload must have both.
    pub fn next_attempt(&mut self, now: DateTime<Utc>) -> u32 {
        self.attempt += 1;
        self.started_at.get_or_insert(now);
        self.attempt
    }

    /// Names the partial of the current generation.
    pub fn partial(&self) -> PartialKey {
        self.partial_of(self.generation)
    }

    /// Names the first partial of the next generation.
    pub fn next_partial(&self) -> PartialKey {
        self.partial_of(self.generation + 1)
    }

    fn partial_of(&self, generation: u32) -> PartialKey {
        PartialKey { client: self.client.clone(), transfer: self.id, generation }
    }

    /// Receives `source` into [`next_partial`](Self::next_partial), whose entry is durable: recovery
    /// finds a partial wherever the record names one.
    ///
    /// # Errors
    /// The transfer is not queued.
    pub fn receive(&mut self, source: Source, _begun: Durable) -> Result<(), PhaseError> {
        if self.phase != Phase::Queued {
            return Err(self.phase_error("receive bytes of"));
        }
        self.generation += 1;
        self.phase = Phase::Receiving(Receiving::from_record(source, Prefix::empty()));
        Ok(())
    }

    /// Ends the transfer with its download.
    ///
    /// # Errors
    /// `published` is not the download that this transfer sealed.
    pub fn publish(&mut self, published: Published, now: DateTime<Utc>) -> Result<(), PhaseError> {
        match &self.phase {
            Phase::Sealed(sealed) if sealed.download() == published.download() => {
                self.phase = Phase::Done(published);
                self.finished_at = Some(now);
                Ok(())
            }
            Phase::Queued
            | Phase::Receiving(_)
            | Phase::Sealed(_)
            | Phase::Done(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => Err(self.phase_error("publish")),
        }
    }

    /// Drops the received bytes, because they are damaged or mix versions of the source. Abort
    /// the [`partial`](Self::partial) once this is on record.
    ///
    /// # Errors
    /// The transfer is final.
    pub fn start_over(&mut self) -> Result<(), PhaseError> {
        if self.is_final() {
            return Err(self.phase_error("start over"));
        }
        self.phase = Phase::Queued;
        if self.base_use == BaseUse::Copied {
            self.base_use = BaseUse::Unused;
        }
        Ok(())
    }

    /// Ends the transfer without a download, because `source` equals the download `since`. Abort
    /// the [`partial`](Self::partial) once this is on record.
    ///
    /// # Errors
    /// The transfer makes a file in any case, or it is sealed or final.
    pub fn end_unchanged(
        &mut self,
        source: Source,
        since: DownloadName,
        now: DateTime<Utc>,
    ) -> Result<(), PhaseError> {
        let may_end = match self.phase {
            Phase::Queued | Phase::Receiving(_) => self.mode == PullMode::IfChanged,
            Phase::Sealed(_)
            | Phase::Done(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => false,
        };
        if !may_end {
            return Err(self.phase_error("end without a change"));
        }
        self.phase = Phase::Unchanged(UnchangedFile { source, since });
        self.finished_at = Some(now);
        Ok(())
    }

    /// Ends the transfer with `problem`, and records how many bytes were received. Abort the
    /// [`partial`](Self::partial) once this is on record.
    ///
    /// # Errors
    /// The transfer is final.
    pub fn fail(
        &mut self,
        problem: Problem,
        reached: LastProgress,
        now: DateTime<Utc>,
    ) -> Result<(), PhaseError> {
        if self.is_final() {
            return Err(self.phase_error("fail"));
        }
        let is_cancelled = problem.code == Code::Cancelled;
        let failure = Failure { problem, reached };
        self.phase = if is_cancelled { Phase::Cancelled(failure) } else { Phase::Failed(failure) };
        self.finished_at = Some(now);
        Ok(())
    }

    /// Returns what a starting server must check before this transfer can continue.
    pub fn recovery(&self) -> Recovery {
        match &self.phase {
            Phase::Queued
            | Phase::Done(_)
            | Phase::Unchanged(_)
            | Phase::Failed(_)
            | Phase::Cancelled(_) => Recovery::Nothing,
            Phase::Receiving(receiving) => Recovery::ReadPrefix(receiving.checkpoint()),
            Phase::Sealed(sealed) => Recovery::FindSealed(sealed.clone()),
        }
    }

    fn phase_error(&self, change: &'static str) -> PhaseError {
        PhaseError { phase: self.phase.name().as_str(), change }
    }
}
